#!/bin/sh
# The server of this pod. In an empty volume number 0 becomes a primary with the accounts, the others its replicas. Every later start is
# read-only and replicates as it did before: ham4db knows which server is the primary.
set -eu
pod=$(hostname)
run=/opt/mariadb/run data=/var/lib/mysql/data new=/var/lib/mysql/new socket=/tmp/socket
number=${pod##*-} read_only=1 restarted=1
serve() { "$run" mariadbd --socket=$socket --pid-file=/tmp/pid --tmpdir=/tmp --server-id=$((101 + number)) --log-bin=binlog "$@"; }
sql() { "$run" mariadb --no-defaults -u root -S $socket "$@"; }
if [ ! -d $data ]; then
    restarted=0
    rm -rf $new && cp -r /opt/mariadb/template $new
    serve --datadir=$new --skip-networking --skip-slave-start &
    tries=0     # a minute; the kubelet then starts the container again
    until sql -e 'SELECT 1' >/dev/null 2>&1; do kill -0 $!; [ $((tries += 1)) -lt 600 ]; sleep 0.1; done
    if [ "$number" = 0 ]; then
        read_only=0
        sql <<SQL
CREATE USER '$TOPOLOGY_USER'@'%' IDENTIFIED BY '$TOPOLOGY_PASSWORD';
GRANT RELOAD, PROCESS, SUPER, BINLOG MONITOR, SLAVE MONITOR, REPLICATION SLAVE, REPLICATION SLAVE ADMIN,
    REPLICATION MASTER ADMIN, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* TO '$TOPOLOGY_USER'@'%';
GRANT SELECT ON mysql.global_priv TO '$TOPOLOGY_USER'@'%';
CREATE USER '$REPLICATION_USER'@'%' IDENTIFIED BY '$REPLICATION_PASSWORD';
GRANT REPLICATION SLAVE ON *.* TO '$REPLICATION_USER'@'%';
CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT);
CREATE USER app@'%' IDENTIFIED BY '$TOPOLOGY_PASSWORD'; GRANT SELECT, INSERT ON shop.* TO app@'%';
SQL
    else
        sql -e "CHANGE MASTER TO MASTER_HOST='shop-0.$DOMAIN', MASTER_USER='$REPLICATION_USER',
            MASTER_PASSWORD='$REPLICATION_PASSWORD', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
    fi
    sql -e SHUTDOWN
    wait
    mv $new $data
fi
# A primary that is back before another server is opened ends the failover ("came back") and takes writes again, and the test waits for
# another primary. Crash recovery of an empty database takes no time, so a restart gets some.
[ "$restarted" = 0 ] || sleep 3
exec "$run" mariadbd --socket=$socket --pid-file=/tmp/pid --tmpdir=/tmp --datadir=$data --server-id=$((101 + number)) \
    --report-host="$pod.$DOMAIN" --log-bin=binlog --log-slave-updates=1 --gtid-strict-mode=1 --read-only=$read_only \
    --skip-name-resolve --innodb-buffer-pool-size=32M
