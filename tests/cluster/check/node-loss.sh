#!/usr/bin/env bash
# On a cluster of three nodes with one pod of workload.yaml on each: a node loses its power, comes back; a node is cut off, comes back.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../env.sh"; . "$here/../net.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
export KUBECONFIG=$RUN/kubeconfig
k() { kubectl -n ham "$@"; }
ready_count() { [ "$(k get endpointslice -l kubernetes.io/service-name=ready -o json | python3 -c 'import json,sys; print(sum(1 for s in json.load(sys.stdin)["items"] for e in s.get("endpoints") or [] if e["conditions"].get("ready")))')" = "$1" ]; }
node_is() { [ "$(kubectl get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = "$2" ]; }
pod_on() { k get pod -o jsonpath="{.items[?(@.spec.nodeName==\"$1\")].metadata.name}"; }
timed() { local name=$1 t0; shift; t0=$(date +%s%N); if wait_for 90 "$@"; then printf '%6d ms  %s\n' $(( ($(date +%s%N)-t0)/1000000 )) "$name"; else echo "never: $name"; fi; }
cut_off() { ip link set "$(node_ns "$1")" down; }
join() { ip link set "$(node_ns "$1")" up; }

pod=$(pod_on node3); uid=$(k get pod "$pod" -o jsonpath='{.metadata.uid}')
echo "power loss of node3 with $pod"
"$here/../node-down.sh" 3
timed 'node NotReady' sh -c "! kubectl get node node3 --no-headers | grep -qw Ready"
timed 'and its pod out of the ready service' ready_count 2
timed 'pod marked for deletion (EVICT_AFTER)' sh -c "kubectl -n ham get pod $pod -o jsonpath='{.metadata.deletionTimestamp}' | grep -q ."
sleep 3; echo "         the pod is $(k get pod "$pod" --no-headers | awk '{print $3}'), same uid: $([ "$(k get pod "$pod" -o jsonpath='{.metadata.uid}')" = "$uid" ] && echo yes || echo no) (a StatefulSet waits for the node)"
"$here/../node-up.sh" 3
timed 'node up again: three ready' ready_count 3
pod=$(pod_on node2)
echo "node2 cut off with $pod"
cut_off 2
timed 'node NotReady' sh -c "! kubectl get node node2 --no-headers | grep -qw Ready"
timed 'and its pod out of the ready service' ready_count 2
join 2
timed 'network back: node Ready' node_is node2 True
timed 'three ready' ready_count 3
