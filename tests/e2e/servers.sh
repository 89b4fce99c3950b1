# shellcheck shell=bash
# Sourced. Three MySQL servers of this machine as processes outside the cluster, with GTID and semi-sync, numbered 1, 2, 3: server 1
# is the primary to begin with. They listen on the machine's address on the nodes' bridge, where pods reach them.
: "${SERVERS:=$RUN/servers}" "${FIRST_PORT:=13306}"
mysql_run=$HAM4DB_TEST_DIR/servers/mysql/run

port() { echo $((FIRST_PORT + $1 - 1)); }
# sql N STATEMENTS : as root over the server's socket.
sql() { timeout 20 "$mysql_run" mysql --no-defaults -u root -S "$SERVERS/$1/socket" -NB -e "$2"; }
# value N SQL EXPECTED : the query answers just that.
value() { [ "$(sql "$1" "$2")" = "$3" ]; }

# start_server N : its data directory is made from the template the first time.
start_server() {
    local n=$1 home=$SERVERS/$1
    if [ ! -d "$home" ]; then
        mkdir -p "$home/tmp"
        cp -r "$HAM4DB_TEST_DIR/servers/mysql/template" "$home/data"
        rm -f "$home/data/auto.cnf"                     # the server's uuid
        [ "$(id -u)" != 0 ] || chown -R 65534:65534 "$home"
    fi
    setsid "$root/tests/setup/unprivileged.sh" "$mysql_run" mysqld --datadir="$home/data" --tmpdir="$home/tmp" \
        --socket="$home/socket" --pid-file="$home/pid" --log-error="$home/log" --bind-address="$HOST_IP" --port="$(port "$n")" \
        --mysqlx=OFF --server-id="$n" --report-host="$HOST_IP" --report-port="$(port "$n")" --skip-name-resolve \
        --gtid-mode=ON --enforce-gtid-consistency=ON --log-bin=binlog --super-read-only=ON \
        --plugin-load-add='semisync_source.so;semisync_replica.so' --rpl-semi-sync-replica-enabled=ON \
        --rpl-semi-sync-source-timeout=3600000 --innodb-buffer-pool-size=32M --innodb-redo-log-capacity=8M --table-open-cache=128 \
        >"$home/out" 2>&1 </dev/null &
    echo $! >"$SERVERS/$n.pid"
}

# kill_server N : SIGKILL, and waits until it is gone.
kill_server() {
    local pid; pid=$(cat "$SERVERS/$1.pid")
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    rm -f "$SERVERS/$1.pid"
}

stop_servers() {
    local n
    for n in 1 2 3; do [ ! -f "$SERVERS/$n.pid" ] || kill_server "$n"; done 2>/dev/null
}

# The users as the chart's README has them, replication, semi-sync on, and a table. The passwords open nothing but these servers.
topology_password=topology-$RANDOM$RANDOM replication_password=replication-$RANDOM$RANDOM
set_up_servers() {
    local n
    for n in 1 2 3; do start_server "$n"; done
    for n in 1 2 3; do
        wait_for 60 sql "$n" 'SELECT 1' || { tail -n 5 "$SERVERS/$n/log" "$SERVERS/$n/out" >&2; return 1; }
    done
    sql 1 "SET GLOBAL super_read_only=OFF; SET GLOBAL read_only=OFF;
        CREATE USER ham4db IDENTIFIED BY '$topology_password';
        GRANT RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO ham4db;
        GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, SYSTEM_USER ON *.* TO ham4db;
        GRANT SELECT ON performance_schema.* TO ham4db;
        GRANT SELECT ON mysql.slave_master_info TO ham4db;
        CREATE USER replica IDENTIFIED BY '$replication_password';
        GRANT REPLICATION SLAVE ON *.* TO replica;
        CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT)"
    for n in 2 3; do
        sql "$n" "CHANGE REPLICATION SOURCE TO SOURCE_HOST='$HOST_IP', SOURCE_PORT=$(port 1), SOURCE_USER='replica',
            SOURCE_PASSWORD='$replication_password', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1,
            SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400; START REPLICA"
    done
    # The switch makes commits wait for a replica: not before there is one, and on the primary only. On a replica it makes the applier
    # wait for a replica's replica.
    wait_for 30 value 1 "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME='Rpl_semi_sync_source_clients'" 2 || return 1
    sql 1 'SET GLOBAL rpl_semi_sync_source_enabled=ON'
    sql 1 "INSERT INTO shop.orders VALUES ()"
}
# follows N SOURCE : both threads run, from that server.
follows() {
    value "$1" "SELECT CONCAT(c.PORT,' ',s.SERVICE_STATE,' ',a.SERVICE_STATE) FROM performance_schema.replication_connection_configuration c
        JOIN performance_schema.replication_connection_status s USING (CHANNEL_NAME)
        JOIN performance_schema.replication_applier_status a USING (CHANNEL_NAME)" "$(port "$2") ON ON"
}
