# shellcheck shell=bash
# Sourced by nodes.sh. What dies is a server, its node, or the API server beside one.
# shellcheck disable=SC2317   # functions inside functions are called by check and within

# fails_over NAME SECONDS COMMAND... : the primary of `shop` is lost by COMMAND: another one takes writes and has all acknowledged rows.
fails_over() {
    local name=$1 limit=$2 old rows; shift 2
    old=$(shop_primary)
    shop_writes "$old" 50
    rows=$(shop_rows "$old")
    "$@" "$old"
    within "$limit" "$name: the resource names another primary, which takes writes" shop_moved "$old"
    within 5 'and the Service of the primary leads to it' leads_to shop-primary "shop-$shop_now 0"
    check 'it has every acknowledged row' shop_has "$shop_now" "$rows"
    check 'and takes a write' shop_writes "$shop_now" 1
}
rejoined() { within 90 'the old one is back as a replica, and the cluster is healthy' shop_whole; }

pod_killed() {
    delete_pod() { k delete pod "shop-$1" --grace-period=0 --force --wait=false >/dev/null 2>&1; }
    fails_over "a primary's pod is deleted by force" 20 delete_pod
    rejoined
}

process_killed() {
    kill_process() { kill -9 "$(container_pid "shop-$1")"; }
    fails_over "a primary's process is killed" 20 kill_process
    rejoined
}

node_of() { k get pod "$1" -o jsonpath='{.spec.nodeName}'; }

# The node of a primary is drained: another server takes over before its pod is evicted, and nobody had to be declared dead.
primary_drained() {
    local old node rows times
    k patch mysqlcluster shop --type merge -p '{"spec":{"recovery":{"onDrain":"TakeOver"}}}' >/dev/null
    old=$(shop_primary) node=$(node_of "shop-$(shop_primary)") times=$(takeovers)
    shop_writes "$old" 50
    rows=$(shop_rows "$old")
    evict() { timeout 60 kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --pod-selector=app=shop; }
    check "$node is drained of its database, the primary of the pods" evict
    within 5 'another one takes writes' shop_moved "$old"
    one_more() { local now; now=$(takeovers); echo "takeovers: $times, then $now"; [ "$now" = $((times + 1)) ]; }
    within 5 'by a takeover' one_more
    check 'it has every acknowledged row' shop_has "$shop_now" "$rows"
    labelled() { [ "$(k get pods -l ham4db.io/role=primary,ham4db.io/cluster=shop -o name)" = "pod/shop-$shop_now" ]; }
    within 5 'and its pod has the label of the primary, alone' labelled
    kubectl uncordon "$node" >/dev/null
    rejoined
}

# orders_writable : the number of the MySQL server that takes writes, when it is just one.
orders_writable() {
    local n found=()
    for n in 1 2 3; do
        if [ -f "$SERVERS/$n.pid" ] && value "$n" 'SELECT @@super_read_only + @@read_only' 0; then found+=("$n"); fi
    done
    [ ${#found[@]} = 1 ] && echo "${found[0]}"
}
orders_moved() { now=$(orders_writable) && [ "$now" != "$1" ]; }
orders_named() { primary_column_names "$1"; }
orders_whole() { is orders Ready True && is orders ReplicationHealthy True && all_instances orders && [ -n "$(orders_writable)" ]; }
writes() { local n; for n in $(seq "$2"); do sql "$1" 'INSERT INTO shop.orders VALUES ()' || return 1; done; }

# kills_orders NAME : the MySQL primary is killed; `old` and `now` are its number and its successor's.
kills_orders() {
    local rows
    old=$(orders_writable)
    writes "$old" 20
    rows=$(sql "$old" 'SELECT COUNT(*) FROM shop.orders')
    kill_server "$old"
    within 15 "$1: another server takes writes" orders_moved "$old"
    check 'it has every acknowledged row' value "$now" 'SELECT COUNT(*) FROM shop.orders' "$rows"
    check 'and takes a write' writes "$now" 1
}
orders_rejoined() {
    start_server "$old"
    within 60 'the old one is started, follows it, and the cluster is healthy' orders_whole
}

server_killed() {
    kills_orders 'a MySQL server outside is killed'
    within 5 'the resource names it' orders_named "$now"
    orders_rejoined
}

# The API server hangs, as on a control plane that has lost its disk: recoveries go on, and what is written catches up.
api_stopped() {
    stopped_api=$(pgrep -f "^$BIN/kube-apiserver" || pgrep -x kube-apiserver)
    kill -STOP "$stopped_api"
    kills_orders 'the API server hangs, and a MySQL server is killed'
    kill -CONT "$stopped_api"; stopped_api=
    within 10 'the API server goes on: the resource names the new primary' orders_named "$now"
    orders_rejoined
}

# seen_by_all N : each member, by its own eyes and not by the leader's word, sees that shop-N replicates from nobody and the others do.
seen_by_all() {
    local name ip told n
    while read -r name ip; do
        told=$(get "$ip" /metrics | grep '^ham4db_replication_lag_seconds{') || return 1
        for n in 0 1 2; do
            if [ "$n" = "$1" ]; then [[ $told != *"server=\"shop-$n.shop."* ]] || return 1
            else [[ $told == *"server=\"shop-$n.shop."* ]] || return 1; fi
        done
    done < <(pods)
}

# The network of a node goes, with a primary, the leader of the group and the cluster's DNS on it. Not of node 1, which has the API server.
node_vanished() {
    local node old pod rows
    led_elsewhere() { pod=$(leader '') && [ "$(node_of "$pod")" != node1 ]; }
    while ! wait_for 20 led_elsewhere; do k delete pod "$(leader '')" >/dev/null; wait_for 60 healthy 3; done
    node=$(node_of "$pod")
    for old in 0 1 2; do [ "$(node_of "shop-$old")" != "$node" ] || break; done
    if [ "$(shop_primary)" != "$old" ]; then
        ask_takeover shop "to-$node" "shop-$old.shop.ham4db.svc" 3306 600
        within 60 "the primary is moved to $node, where the leader is" takeover_phase shop "to-$node" Succeeded
    fi
    kubectl -n kube-system patch deployment coredns --type merge -p "{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"kubernetes.io/hostname\":\"$node\"}}}}}" >/dev/null
    kubectl -n kube-system rollout status deployment coredns --timeout=60s >/dev/null
    within 60 'all is healthy' shop_whole
    within 20 'each member has seen it' seen_by_all "$old"
    shop_writes "$old" 50
    rows=$(shop_rows "$old")
    ip link set "$(node_ns "${node#node}")" down
    within 30 "$node is cut off, with the primary, the leader and DNS on it: another primary takes writes" shop_moved "$old"
    within 5 'and the Service of the primary leads to it' leads_to shop-primary "shop-$shop_now 0"
    check 'it has every acknowledged row' shop_has "$shop_now" "$rows"
    # Its replica finds it only with DNS; until its durability policy lets go of that replica it waits.
    within 60 'and takes a write' shop_writes "$shop_now" 1
    within 20 'two members are healthy, and one of them leads' leader "$pod"
    ip link set "$(node_ns "${node#node}")" up
    within 180 'the network is back: the old primary is a replica, and the cluster is healthy' shop_whole
    within 120 'three members are healthy' healthy 3
    within 20 'it is read-only: there is one writable server' shop_is "$old" 'SELECT @@read_only' 1
}
