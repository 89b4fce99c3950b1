#!/usr/bin/env bash
# Starts node N of the cluster, new or again after node-down.sh: node-up.sh N. Root.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"; . "$here/net.sh"; . "$here/pki.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}" "${IMAGES:=$HAM4DB_TEST_DIR/images}" "${ETCD:=$(find_tool etcd)}"
[ ! -f "$RUN/nodes" ] || NODES=$(cat "$RUN/nodes")
n=$1 ns=$(node_ns "$1") ip=$(node_ip "$1") name=node$1 PKI=$RUN/pki
pods=$(node_pods "$n")
export here RUN IMAGES ETCD BIN PKI API_IP NODE_NAME=$name NODE_NS=$ns NODE_IP=$ip NODE_PODS=$pods
[ ! -f "$RUN/$name/init.pid" ] || die "$name is up"
mkdir -p "$RUN/$name"
[ -f "$PKI/$name.crt" ] || make_cert "$name" "/O=system:nodes/CN=system:node:$name" clientAuth
make_kubeconfig "$name" "https://$API_IP:6443" "$RUN/$name/kubeconfig"

ip netns add "$ns"
ip link add "$ns" type veth peer name eth0 netns "$ns"
ip link set "$ns" master "$CLUSTER" up
ip -n "$ns" addr add "$ip/24" dev eth0
ip -n "$ns" link set eth0 up
ip -n "$ns" link set lo up
ip -n "$ns" route add "$SERVICE_CIDR" dev eth0       # so that a look-up of a service's address passes; kube-proxy rewrites it
for m in $(seq "$NODES"); do [ "$m" = "$n" ] || ip -n "$ns" route add "$(node_pods "$m")" via "$(node_ip "$m")"; done
ip route replace "$NODE_PODS" via "$ip"

# cgroup v1: the root of the pods' cgroups has to exist in every hierarchy. (On v2 the one folder would do.)
for c in /sys/fs/cgroup/*/; do
    if [ -w "${c}cgroup.procs" ]; then mkdir -p "$c$ns"; fi
done
if [ -d "/sys/fs/cgroup/cpuset/$ns" ]; then
    for f in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$f" >"/sys/fs/cgroup/cpuset/$ns/cpuset.$f"; done
fi

# nsenter, not `ip netns exec`: the latter mounts a fresh /sys and so hides /sys/fs/cgroup.
setsid nsenter --net="/run/netns/$ns" unshare --mount --pid --fork --kill-child --mount-proc bash "$here/node-init.sh" \
    >"$RUN/$name/init.log" 2>&1 </dev/null &
echo $! >"$RUN/$name/init.pid"
