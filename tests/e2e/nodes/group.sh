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

# All pods are made anew in the same moment: nobody is where the others knew it.
all_moved() {
    local before
    before=$(pods | cut -d' ' -f2 | sort | xargs)
    moved() { [ "$(pods | cut -d' ' -f2 | sort | comm -12 - <(tr ' ' '\n' <<<"$before") | wc -l)" = 0 ] && members_are 3; }
    k delete pods -l app.kubernetes.io/name=ham4db --wait=false >/dev/null
    within 120 "all pods are deleted at once: three members are healthy, at other addresses than $before" moved
}

# A volume is lost with all that was on it: the member joins the group under a new id.
volume_lost() {
    local pod=ham4db-2
    k delete pvc "data-$pod" --wait=false >/dev/null
    k delete pod "$pod" --grace-period=0 --force >/dev/null 2>&1
    within 120 "the volume of $pod is lost: it joins anew, and three members are healthy" members_are 3
}

# Two of three volumes are lost: the third member goes on because a person says so, and repairs nothing before a person says so again.
quorum_lost() {
    local old now rows
    k delete pvc data-ham4db-1 data-ham4db-2 --wait=false >/dev/null
    k delete pod ham4db-1 ham4db-2 --grace-period=0 --force >/dev/null 2>&1
    within 30 'two volumes of three are lost: no member is healthy' healthy 0
    two_are_back() { [ "$(k get pods ham4db-1 ham4db-2 -o jsonpath='{.items[*].status.phase}')" = 'Running Running' ]; }
    within 90 'their pods are back, with empty volumes' two_are_back
    force() { in_pod ham4db-0 ham4db force-quorum --config /etc/ham4db/ham4db.conf.json --lost "$1"; }
    refused() { local said; said=$(force ham4db-1 2>&1) && return 1; say "$said"; [[ $said == *'ham4db-2 does not answer and was not named as lost'* ]]; }
    check 'to go on without one of them is refused: the other one is away too' refused
    check 'to go on without both is done' force ham4db-1,ham4db-2
    within 120 'three members are healthy' members_are 3
    old=$(orders_writable)
    rows=$(sql "$old" 'SELECT COUNT(*) FROM shop.orders')
    kill_server "$old"
    held() { [[ $(of orders '.status.conditions[?(@.type=="RecoveryBlocked")].message') == *'globally disabled'* ]]; }
    within 20 'a primary dies: it is not replaced, and the resource says why' held
    check 'nobody takes writes' sh -c '[ -z "$1" ]' _ "$(orders_writable)"
    check 'an operator has checked the clusters: recoveries are enabled' in_pod ham4db-0 ham4db-client -c enable-global-recoveries
    within 15 'and it is replaced' orders_moved "$old"
    check 'by one with every acknowledged row' value "$now" 'SELECT COUNT(*) FROM shop.orders' "$rows"
    orders_rejoined
}

# A new group without volumes, on the resources that an earlier one left: each restarted member joins anew.
without_volumes() {
    fresh() {
        helm install ham4db "$root/charts/ham4db" --namespace ham4db --timeout 150s --wait --set image.pullPolicy=Never \
            --set 'credentialSecrets={mysql-topology,shop}' --set persistence.enabled=false "${new_values[@]}"
    }
    ask_takeover orders e2e-fresh "$HOST_IP" "$(port 3)" 2 >/dev/null
    past() { [ "$(date -u +%FT%TZ)" '>' "$(of orders .spec.takeover.deadline)" ]; }
    wait_for 10 past
    k delete configmap ham4db-bootstrap --ignore-not-found >/dev/null
    check 'helm install of a new group without volumes' fresh
    within 60 'three members are healthy' members_are 3
    within 120 'what the old manifest asks for is Expired, once the status of the old group is old' takeover_phase orders e2e-fresh Expired
    record without-volumes
    check 'a rollout, one member after the other' release --wait --set podAnnotations.e2e=again
    within 60 'three members are healthy' members_are 3
    recorded
    check 'helm uninstall' helm uninstall ham4db --namespace ham4db --wait --timeout 60s
}
