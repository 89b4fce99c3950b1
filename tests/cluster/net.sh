# shellcheck shell=bash
# Sourced. Names and addresses of the test cluster. 198.18.0.0/15 is set aside for tests of network devices: no network owns it, so
# it meets no address of the machine, its resolver or its gateway, and a guard route keeps it from ever leaving the machine.
# Node N (1, 2, ...): network namespace $CLUSTER-nodeN, address 198.18.0.(10+N), pods 198.18.(100+N).0/24.
: "${CLUSTER:=hk}"                       # names the bridge, the namespaces and the cgroups; at most 8 letters
: "${NODES:=1}"
: "${GUARD:=198.18.0.0/15}" "${HOST_IP:=198.18.0.1}"         # this machine's address on the nodes' bridge
: "${SERVICE_CIDR:=198.19.0.0/16}" "${API_SERVICE_IP:=198.19.0.1}" "${DNS_IP:=198.19.0.10}"
: "${PROXY_MODE:=nftables}"              # or iptables
: "${CRASH_BACKOFF:=1s}"                 # longest back-off of a crashing container; Kubernetes' own: 10 s doubling to 300 s
: "${NODE_GRACE:=8s}"                    # a silent node is NotReady after this; Kubernetes' own: 50 s
: "${EVICT_AFTER:=10}"                   # seconds until pods of such a node are deleted; Kubernetes' own: 300
export CLUSTER NODES GUARD HOST_IP SERVICE_CIDR API_SERVICE_IP DNS_IP PROXY_MODE CRASH_BACKOFF NODE_GRACE EVICT_AFTER
node_ns() { echo "$CLUSTER-node$1"; }
node_ip() { echo "198.18.0.$((10 + $1))"; }
node_pods() { echo "198.18.$((100 + $1)).0/24"; }
API_IP=$(node_ip 1)
