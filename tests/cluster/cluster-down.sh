#!/usr/bin/env bash
# Ends the cluster of cluster-up.sh and puts the machine's network, cgroups and sysctls back. KEEP=1 keeps $RUN (logs, data).
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"; . "$here/net.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}" "${KEEP:=}"
for d in "$RUN"/node*/; do [ ! -d "$d" ] || "$here/node-down.sh" "$(basename "$d" | sed s/node//)"; done
ip link del "$CLUSTER" 2>/dev/null || true           # takes the routes through it along
ip route del unreachable "$GUARD" metric 4000000000 2>/dev/null || true
[ ! -f "$RUN/sysctl.before" ] || sysctl -qp "$RUN/sysctl.before" || true
[ -n "$KEEP" ] || rm -rf "$RUN"
