# shellcheck shell=bash
# Sourced. Three MariaDB servers as pods shop-0, shop-1, shop-2, with the resource `shop`: image and manifest are in mariadb/.
: "${MARIADB_IMAGE:=localhost/ham4db-mariadb:e2e}"
mariadb_home=$HAM4DB_TEST_DIR/servers/mariadb

build_mariadb_image() {
    mkdir "$work/mariadb"
    cp -r "$mariadb_home/." "$root/tests/e2e/mariadb/Dockerfile" "$root/tests/e2e/mariadb/start.sh" "$work/mariadb/"
    "$root/tests/cluster/bud.sh" -t "$MARIADB_IMAGE" "$work/mariadb" && rm -rf "$work/mariadb"
}
start_shop() {
    sed -e "s#@image@#$MARIADB_IMAGE#; s/@topology_password@/$topology_password/; s/@replication_password@/$replication_password/" \
        "$root/tests/e2e/mariadb/shop.yaml" | k apply --server-side -f -
}
# shop N STATEMENT : as the application, on the server of the pod shop-N.
shop() {
    MYSQL_PWD=$topology_password timeout 10 "$mariadb_home/run" mariadb --no-defaults --connect-timeout=2 -h "$(pod_ip "shop-$1")" -u app -NB -e "$2"
}
shop_is() { [ "$(shop "$1" "$2")" = "$3" ]; }
# shop_primary : the number of the pod that the resource names.
shop_primary() {
    local named; named=$(of shop '.status.primary.host')
    [[ $named =~ ^shop-([0-2])\. ]] && echo "${BASH_REMATCH[1]}"
}
# shop_moved FROM : the resource names another primary, which takes writes. Its number is left in `shop_now`.
shop_moved() {
    shop_now=$(shop_primary) && [ "$shop_now" != "$1" ] && shop_is "$shop_now" 'SELECT @@read_only' 0
}
# through SERVICE STATEMENT : as the application, on whichever server the Service leads to.
through() {
    MYSQL_PWD=$topology_password timeout 5 "$mariadb_home/run" mariadb --no-defaults --connect-timeout=2 -u app -NB \
        -h "$(k get service "$1" -o jsonpath='{.spec.clusterIP}')" -e "$2"
}
# leads_to SERVICE WORDS : what a server behind it says of its name and whether it is read-only.
leads_to() { local seen; seen=$(through "$1" "SELECT CONCAT(@@hostname, ' ', @@read_only + 0)"); echo "it says: $seen"; [ "$seen" = "$2" ]; }
# All three answer, and two replicate from the third, which is the primary.
shop_whole() {
    [ "$(k get mysqlcluster shop -o json | python3 -c '
import json, sys
status = json.load(sys.stdin)["status"]
conditions = {c["type"]: c["status"] for c in status["conditions"]}
roles = sorted(i["role"] for i in status["instances"])
print(roles == ["Primary", "Replica", "Replica"] and conditions["Ready"] == conditions["ReplicationHealthy"] == "True")')" = True ]
}
# shop_writes N COUNT : so many rows, each acknowledged.
shop_writes() { shop "$1" "$(for _ in $(seq "$2"); do printf 'INSERT INTO shop.orders VALUES (); '; done)"; }
shop_rows() { shop "$1" 'SELECT COUNT(*) FROM shop.orders'; }
# shop_has N ROWS : at least these.
shop_has() { [ "$(shop_rows "$1")" -ge "$2" ]; }
# The process in the container of a pod, as the machine sees it.
container_pid() {
    local id; id=$(k get pod "$1" -o jsonpath='{.status.containerStatuses[0].containerID}')
    head -1 "$(find /sys/fs/cgroup/pids/"$CLUSTER"-node* /sys/fs/cgroup/"$CLUSTER"-node* -type d -name "${id#containerd://}" 2>/dev/null | head -1)/cgroup.procs"
}
