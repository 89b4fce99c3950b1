#!/usr/bin/env bash
# A real cluster on this machine: etcd, kube-apiserver, kube-controller-manager, kube-scheduler (on node 1), and on every node
# containerd, kubelet, kube-proxy; CoreDNS as a Deployment. Root. NODES=3 cluster-up.sh makes three nodes. Each node has its own
# network, mount and pid namespace, so the machine's own firewall, mounts and /run stay as they are, and a node ends by ending one
# process. Prints the kubeconfig's path.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"; . "$here/net.sh"; . "$here/pki.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
PKI=$RUN/pki
[ "$(id -u)" = 0 ] || die "needs root"
[ ! -e "/sys/class/net/$CLUSTER" ] || die "already up, or not taken down: bridge $CLUSTER"
mkdir -p "$RUN"
echo "$NODES" >"$RUN/nodes"

make_pki "IP:127.0.0.1,IP:$API_IP,IP:$API_SERVICE_IP,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
make_kubeconfig admin "https://$API_IP:6443" "$RUN/kubeconfig"

# Sysctls that the kubelet sets for the whole machine; cluster-down.sh puts them back.
sysctl -e vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes \
    >"$RUN/sysctl.before"

# A bridge that the nodes hang on. Nodes get no default route: nothing inside can reach any other network.
ip route replace unreachable "$GUARD" metric 4000000000
ip link add "$CLUSTER" type bridge
ip addr add "$HOST_IP/24" dev "$CLUSTER"
ip link set "$CLUSTER" up
ip route replace "$SERVICE_CIDR" via "$API_IP"

for n in $(seq "$NODES"); do "$here/node-up.sh" "$n"; done

export KUBECONFIG=$RUN/kubeconfig
wait_for 60 kubectl get --raw /readyz || { tail -n 5 "$RUN"/node1/*.log >&2; die "kube-apiserver is not ready"; }
say "kube-apiserver ready"
sed -e "s/@DNS_IP@/$DNS_IP/" "$here/coredns.yaml" | kubectl apply -f - >/dev/null
for n in $(seq "$NODES"); do
    wait_for 60 kubectl get node "node$n" || { tail -n 5 "$RUN/node$n"/*.log >&2; die "no node$n"; }
done
kubectl wait --for=condition=Ready nodes --all --timeout=60s >&2
kubectl -n kube-system rollout status deploy/coredns --timeout=60s >&2
say "CoreDNS ready"
echo "$KUBECONFIG"
