#!/usr/bin/env bash
# What a test of an operator needs from a node, each shown once on the workload of workload.yaml (in namespace ham).
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../env.sh"; . "$here/../net.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
export KUBECONFIG=$RUN/kubeconfig
k() { kubectl -n ham "$@"; }
passed=0 failed=0
check() {   # check NAME COMMAND... : retries for WAIT (10) seconds
    local name=$1 t0 t1; shift
    t0=$(date +%s%N)
    if wait_for "${WAIT:-10}" "$@"; then passed=$((passed+1)); t1=$(date +%s%N); printf 'ok   %5d ms  %s\n' $(( (t1-t0)/1000000 )) "$name"
    else failed=$((failed+1)); printf 'FAIL           %s\n' "$name"; { "$@" 2>&1 || true; } | tail -5; fi
}
in_pod() { k exec db-0 -- sh -c "$1"; }
ready_addresses() { k get endpointslice -l kubernetes.io/service-name=ready -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}'; }
ready_count() { [ "$(ready_addresses | wc -l)" = "$1" ]; }
never_db2() { ! in_pod 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do timeout 2 wget -q -O - http://ready/name; done' | grep -q db-2; }
sees_all() { in_pod 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do timeout 2 wget -q -O - http://ready/name; done' | sort -u | grep -c db- | grep -qx 3; }

check 'exec into a pod' in_pod true
check 'logs of a pod are served' k logs db-0
check 'per-pod DNS name' in_pod 'nslookup db-1.db.ham.svc.cluster.local | grep -q "Address: 198"'
check 'short per-pod DNS name by search list' in_pod 'timeout 2 wget -q -O - http://db-1.db:8080/name | grep -qx db-1'
check 'headless name lists three addresses' in_pod '[ $(nslookup db.ham.svc.cluster.local | grep -c "Address: 198.18") = 3 ]'
check 'ClusterIP service spreads over three pods' sees_all
check 'the API server from inside, by its service' in_pod 'nc -w 2 kubernetes.default 443 </dev/null'
check 'service account token is mounted' in_pod 'test -s /var/run/secrets/kubernetes.io/serviceaccount/token'
check 'pod reached from this machine by address' sh -c "timeout 2 wget -q -O - http://$(k get pod db-0 -o jsonpath='{.status.podIP}'):8080/name | grep -qx db-0"
check 'service reached from this machine by ClusterIP' sh -c "timeout 2 wget -q -O - http://$(k get svc ready -o jsonpath='{.spec.clusterIP}')/name | grep -q db-"

k exec db-2 -- rm /data/www/ready
check 'unready pod leaves the ready service' ready_count 2
check 'no request reaches the unready pod' never_db2
check 'publishNotReadyAddresses keeps its DNS name' in_pod 'timeout 2 wget -q -O - http://db-2.db:8080/name | grep -qx db-2'
k exec db-2 -- touch /data/www/ready
check 'ready again' ready_count 3

python3 -m http.server --bind "$HOST_IP" --directory "$here" 18080 >/dev/null 2>&1 & server=$!
check 'pod reaches a server of this machine' in_pod "timeout 2 wget -q -O /dev/null http://$HOST_IP:18080/"
kill $server
nsenter --net="/run/netns/$(node_ns 1)" python3 -m http.server --bind 0.0.0.0 --directory "$here" 18081 >/dev/null 2>&1 & server=$!
check 'pod reaches a server in the node namespace' in_pod "timeout 2 wget -q -O /dev/null http://$(node_ip 1):18081/"
kill $server
cat <<EOT | kubectl apply -f - >/dev/null
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: ham}
spec: {ports: [{port: 3306}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, namespace: ham, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
ports: [{port: 18080}]
endpoints: [{addresses: ["$HOST_IP"]}]
EOT
python3 -m http.server --bind "$HOST_IP" --directory "$here" 18080 >/dev/null 2>&1 & server=$!
check 'a selectorless service in front of a server of this machine' in_pod "timeout 2 wget -q -O /dev/null http://outside:3306/"
kill $server

uid=$(k get pod db-1 -o jsonpath='{.metadata.uid}')
k delete pod db-1 --wait=false >/dev/null
recreated() { [ "$(k get pod db-1 -o jsonpath='{.metadata.uid}')" != "$uid" ] && k wait --for=condition=Ready pod/db-1 --timeout=1s; }
check 'a deleted pod comes back ready' recreated
check 'and keeps its volume' sh -c "kubectl -n ham exec db-1 -- sh -c '[ \$(wc -l </data/starts) -ge 2 ]'"

evict() { kubectl create --raw "/api/v1/namespaces/ham/pods/$1/eviction" -f - <<<"{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"$1\",\"namespace\":\"ham\"}}"; }
allowed() { [ "$(k get pdb db -o jsonpath='{.status.disruptionsAllowed}')" = "$1" ]; }
check 'the budget allows one disruption' allowed 1
k exec db-2 -- rm /data/www/ready
check 'with one pod unready it allows none' allowed 0
refused() { ! evict db-0 2>"$RUN/evict" && grep -q 'disruption budget' "$RUN/evict"; }
check 'an eviction is refused' refused
k exec db-2 -- touch /data/www/ready
check 'and allowed again' allowed 1
uid=$(k get pod db-1 -o jsonpath='{.metadata.uid}')
evict db-1 >/dev/null
check 'an evicted pod comes back ready' recreated

# A crash as a test wants it: SIGKILL to the container's first process, found on this machine by the container's cgroup.
container_pid() {
    local id; id=$(k get pod "$1" -o jsonpath='{.status.containerStatuses[0].containerID}')
    head -1 "$(find /sys/fs/cgroup/pids/"$CLUSTER"-node* -type d -name "${id#containerd://}")/cgroup.procs"
}
restarts() { k get pod db-0 -o jsonpath='{.status.containerStatuses[0].restartCount}'; }
n=$(restarts)
kill -9 "$(container_pid db-0)"
restarted() { [ "$(restarts)" -gt "$n" ] && k wait --for=condition=Ready pod/db-0 --timeout=1s; }
WAIT=30 check 'a container whose process is killed is restarted in place' restarted

privileged() { ! k run bad --image=localhost/busybox:test --restart=Never -- true 2>"$RUN/psa" && grep -q 'violates PodSecurity "restricted' "$RUN/psa"; }
check 'PodSecurity restricted refuses a plain pod' privileged
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
