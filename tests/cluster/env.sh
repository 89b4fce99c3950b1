# shellcheck shell=bash
# Sourced by every script here. All places and versions are variables with defaults; nothing names a particular machine.
set -euo pipefail

# shellcheck source=../setup/tools.sh
. "$(dirname "${BASH_SOURCE[0]}")/../setup/tools.sh"
: "${HAM4DB_TEST_DIR:=$CACHE}"                                    # everything lives here
: "${BIN:=$HAM4DB_TEST_DIR/bin}"                                  # built binaries
: "${KUBE_VERSION:=1.33.13}"
: "${ETCD_VERSION:=3.5.21}"
: "${COREDNS_VERSION:=1.12.4}"
: "${HELM_VERSION:=3.22.0}"

export PATH="$BIN:$PATH:/usr/sbin:/sbin"                          # plain names follow the rule of find_tool

say() { printf '[%s] %s\n' "$(date +%T)" "$*" >&2; }
die() { say "$*"; exit 1; }

# A free TCP port on loopback.
free_port() { perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'; }

# wait_for SECONDS COMMAND... : polls every 50 ms.
wait_for() {
    local end=$(( $(date +%s) + $1 )); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# start NAME COMMAND... : runs it in the background in its own session, log in $RUN/NAME.log, pid in $RUN/NAME.pid.
start() {
    local name=$1; shift
    setsid "$@" >"$RUN/$name.log" 2>&1 </dev/null &
    echo $! >"$RUN/$name.pid"
}

# stop NAME : ends the process of that pid file, and only that one.
stop() {
    local pid file=$RUN/$1.pid
    [ -f "$file" ] || return 0
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$file"
}
