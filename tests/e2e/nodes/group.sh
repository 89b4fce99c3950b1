# shellcheck shell=bash
# Sourced by nodes.sh. What happens to the members, while every answer of the client Service and every change of readiness is recorded.
# shellcheck disable=SC2317   # functions inside functions are called by check and within

# record NAME : until stop_recording. Written is the downtime of the third MySQL server.
record() {
    recording=$1
    API_TOKEN=$(api_token) "$root/tests/e2e/recorder.py" run "http://$(service_ip):3000" "$HOST_IP" "$(port 3)" "$work/requests-$1" &
    recorder=$!
    k get pods -l app.kubernetes.io/name=ham4db -w -o \
        'custom-columns=N:.metadata.name,U:.metadata.uid,R:.status.conditions[?(@.type=="Ready")].status,D:.metadata.deletionTimestamp' \
        --no-headers >"$work/requests-$1-readiness" 2>/dev/null &
    watcher=$!
}
stop_recording() {
    local pid
    for pid in ${recorder:-} ${watcher:-}; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    recorder='' watcher=''
}
# flips : pods that were ready and then were not, though nobody had deleted them.
flips() { awk '$4 == "<none>" && was[$2] == "True" && $3 == "False" { print $1 } { was[$2] = $3 }' "$work/requests-$recording-readiness" | sort | uniq -c; }
# recorded : what the record says.
recorded() {
    local told flipped
    stop_recording
    if told=$("$root/tests/e2e/recorder.py" tell "$work/requests-$recording"); then good "the client Service meanwhile: $told"
    else bad 'the client Service meanwhile' "$told"; fi
    flipped=$(flips)
    if [ -z "$flipped" ]; then good 'no member was unready that was not deleted'; else bad 'no member was unready that was not deleted' "$flipped"; fi
}
members_are() { healthy "$1" && [ "$(k get statefulset ham4db -o jsonpath='{.status.replicas} {.status.readyReplicas}')" = "$1 $1" ] && ready_endpoints "$1"; }

leader_killed() {
    local old
    record leader
    old=$(leader '')
    k delete pod "$old" --grace-period=0 --force >/dev/null 2>&1
    within 10 "the leader's pod ($old) is deleted by force: another member leads" leader "$old"
    within 90 'three members are healthy' members_are 3
    recorded
}

rolled_out() {
    record rollout
    check 'a rollout, one member after the other' release --wait --set podAnnotations.e2e=rolled
    within 60 'three members are healthy' members_are 3
    recorded
}

drained() {
    local node=node3
    drain() { timeout "$1" kubectl drain "$2" --ignore-daemonsets --delete-emptydir-data --pod-selector=app.kubernetes.io/name=ham4db; }
    record drain
    check "$node is drained of its member" drain 60 $node
    within 20 'two members are healthy' healthy 2
    refused() { ! drain 6 node2 >"$work/drain.log" 2>&1 && grep -q 'disruption budget' "$work/drain.log"; }
    check 'the budget does not let a second one go' refused
    kubectl uncordon node2 node3 >/dev/null
    within 60 'the nodes are back: three members are healthy' members_are 3
    recorded
}

scaled() {
    local count
    record scaling
    for count in 5 3 1 3; do
        check "scaled to $count" release --set replicas="$count"
        within 120 "$count members are healthy, and the Service leads to them" members_are "$count"
        voters() { get "$(service_ip)" /api/raft-peers | json "len(v) == $1"; }
        within 30 "the group has $count voters" voters "$count"
    done
    recorded
}

# A volume is lost with all that was on it: the member joins the group under a new id.
volume_lost() {
    local pod=ham4db-2
    k delete pvc "data-$pod" --wait=false >/dev/null
    k delete pod "$pod" --grace-period=0 --force >/dev/null 2>&1
    within 120 "the volume of $pod is lost: it joins anew, and three members are healthy" members_are 3
}
