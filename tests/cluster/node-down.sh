#!/usr/bin/env bash
# Node N loses its power: every process on it is gone at once, nothing says goodbye. Its volumes and images stay. node-down.sh N
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"; . "$here/net.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
ns=$(node_ns "$1") file=$RUN/node$1/init.pid
if [ -f "$file" ]; then
    pid=$(cat "$file")                               # unshare; --kill-child ends the namespace's first process with it
    kill -9 "$pid" 2>/dev/null || true
    wait_for 10 sh -c "! kill -0 $pid" || true
    rm -f "$file"
fi
ip link del "$ns" 2>/dev/null || true
if [ -e "/run/netns/$ns" ]; then ip netns del "$ns"; fi
for c in /sys/fs/cgroup/*/; do
    [ ! -d "$c$ns" ] || wait_for 5 find "$c$ns" -depth -type d -exec rmdir {} + || true
done
