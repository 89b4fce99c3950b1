# shellcheck shell=bash
# Sourced by nodes.sh. What is asked for by fields of the resources.
# shellcheck disable=SC2317   # functions inside functions are called by check and within

# ask_takeover NAME ID HOST PORT SECONDS [CATCH_UP] : `spec.takeover`, with a deadline so many seconds from now.
ask_takeover() {
    k patch mysqlcluster "$1" --type merge -p "$(printf '{"spec":{"takeover":{"requestID":"%s","target":{"host":"%s","port":%s},"deadline":"%s","catchUpTimeout":"%s"}}}' \
        "$2" "$3" "$4" "$(date -u -d "$5 seconds" +%FT%TZ)" "${6:-20s}")"
}
# takeover_phase NAME ID PHASE
takeover_phase() { [ "$(of "$1" '.status.takeover.requestID') $(of "$1" '.status.takeover.phase')" = "$2 $3" ]; }
# The resource was looked at since its last change.
observed() { [ "$(of "$1" .status.observedGeneration)" = "$(of "$1" .metadata.generation)" ]; }
# takeovers : how many are on record, of any cluster.
takeovers() { get "$(service_ip)" /api/audit-recovery | python3 -c 'import json,sys; print(sum("takeover" in r["AnalysisEntry"]["CommandHint"] for r in json.load(sys.stdin)))'; }
nothing_repeated() { local seen; seen="$(takeovers) $(orders_writable)"; echo "takeovers, primary: $seen"; [ "$seen" = "$1 $2" ]; }

# One takeover for a requestID, whatever happens to the manifest, the status and the resource.
taken_over_once() {
    local first target times
    first=$(orders_writable) target=$(( $(orders_writable) % 3 + 1 ))
    ask_takeover orders e2e-1 "$HOST_IP" "$(port "$target")" 600 >/dev/null
    within 30 'a takeover is asked for by requestID, and succeeds' takeover_phase orders e2e-1 Succeeded
    check 'the target takes writes, alone' test "$(orders_writable)" = "$target"
    within 30 'and the old primary follows it' follows "$first" "$target"
    times=$(takeovers)
    k get mysqlcluster orders -o json | python3 -c '
import json, sys
whole = json.load(sys.stdin)
print(json.dumps({"apiVersion": whole["apiVersion"], "kind": whole["kind"], "metadata": {"name": "orders", "namespace": "ham4db"}, "spec": whole["spec"]}))' >"$work/asked.json"

    ask_takeover orders e2e-2 "$HOST_IP" "$(port "$first")" 600 >/dev/null
    within 30 'another one goes back' takeover_phase orders e2e-2 Succeeded
    times=$((times + 1))
    k replace -f "$work/asked.json" >/dev/null
    within 20 'the first manifest is applied again: it is known' takeover_phase orders e2e-1 Succeeded
    within 10 'and nothing is done' nothing_repeated "$times" "$first"

    k patch mysqlcluster orders --subresource=status --type json -p '[{"op":"remove","path":"/status"}]' >/dev/null
    k delete pod "$(leader '')" >/dev/null
    within 60 'the status is wiped and the leader deleted: the next one knows it' takeover_phase orders e2e-1 Succeeded
    within 10 'and nothing is done' nothing_repeated "$times" "$first"
    within 60 'three members are healthy' healthy 3

    k delete mysqlcluster orders >/dev/null
    k create -f "$work/asked.json" >/dev/null
    within 60 'the resource is deleted and made anew: it is known' takeover_phase orders e2e-1 Succeeded
    within 10 'and nothing is done' nothing_repeated "$times" "$first"
    within 60 'the cluster is healthy' orders_whole
}

# says_why WORD : the status of the takeover has a reason with that in it.
says_why() { local why; why=$(of orders .status.takeover.message); say "the reason: $why"; [[ $why == *"$1"* ]]; }
# behind N LEAST MOST : as many seconds as the oldest transaction that it applies now is old; 0 when it applies none.
behind() {
    local seconds; seconds=$(sql "$1" "SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, APPLYING_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP, NOW(6))), 0)
        FROM performance_schema.replication_applier_status_by_worker WHERE APPLYING_TRANSACTION <> '' AND SERVICE_STATE = 'ON'")
    echo "$seconds s behind"
    [ "$seconds" -ge "$2" ] && [ "$seconds" -le "$3" ]
}

# What is not done, with the reason.
not_taken_over() {
    local first target times lock
    first=$(orders_writable) target=$(( $(orders_writable) % 3 + 1 )) times=$(takeovers)
    ask_takeover orders e2e-old "$HOST_IP" "$(port "$target")" -60 >/dev/null
    within 20 'a takeover whose deadline is past is Expired' takeover_phase orders e2e-old Expired
    sql "$target" 'STOP REPLICA SQL_THREAD'
    writes "$first" 5
    ask_takeover orders e2e-stands "$HOST_IP" "$(port "$target")" 600 >/dev/null
    within 30 'one to a replica that does not apply is refused' takeover_phase orders e2e-stands Refused
    check 'with the reason, which names it' says_why "$(port "$target")"
    sql "$target" 'START REPLICA SQL_THREAD'
    within 30 'it applies again' follows "$target" "$first"

    # Its applier runs, and waits for a lock.
    sql "$target" 'LOCK TABLES shop.orders READ; SELECT SLEEP(15)' >/dev/null &
    lock=$!
    writes "$first" 5
    within 15 'the same replica lags' behind "$target" 5 15
    ask_takeover orders e2e-lags "$HOST_IP" "$(port "$target")" 600 2s >/dev/null
    within 10 'one to a replica that lags is refused' takeover_phase orders e2e-lags Refused
    check 'with the reason, which names it' says_why "$(port "$target")"
    wait "$lock" || true
    within 10 'and nothing was done' nothing_repeated "$times" "$first"
    within 60 'the cluster is healthy' orders_whole
}

# Two people own an entry each, by server-side apply.
downtime_of_two() {
    local until
    until=$(date -u -d '10 minutes' +%FT%TZ)
    # entry OWNER PORT...
    entries() {
        local owner=$1 n; shift
        printf 'apiVersion: ham4db.io/v1alpha1\nkind: MySQLCluster\nmetadata: {name: orders}\nspec:\n  downtime:'
        [ $# -gt 0 ] || printf ' []'
        for n; do printf '\n  - {host: %s, port: %s, owner: %s, reason: e2e, until: "%s"}' "$HOST_IP" "$n" "$owner" "$until"; done
        printf '\n'
    }
    as() { local who=$1; shift; entries "$who" "$@" | k apply --server-side --field-manager="$who" -f -; }
    # downtimed PORT... : these, and no others.
    downtimed() {
        local want; want=$(printf '%s\n' "$@" | sort | xargs)
        [ "$(get "$(service_ip)" /api/downtimed | python3 -c 'import json,sys; print(*sorted(i["Key"]["Port"] for i in json.load(sys.stdin)))')" = "$want" ]
    }
    check 'alice puts a server into downtime' as alice "$(port 2)"
    check 'bob another one, as another field manager' as bob "$(port 3)"
    within 20 'both are' downtimed "$(port 2)" "$(port 3)"
    check 'alice withdraws hers' as alice
    within 20 'and only it ends' downtimed "$(port 3)"
    check 'bob withdraws his' as bob
    within 20 'and none is left' downtimed
}
