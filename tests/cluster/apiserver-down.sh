#!/usr/bin/env bash
# Ends what apiserver-up.sh started under RUN, by pid, and removes RUN.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/api}"
# SIGKILL: what it holds is thrown away, and a graceful end waits for every watch.
if [ -f "$RUN/kube-apiserver.pid" ]; then kill -9 "$(cat "$RUN/kube-apiserver.pid")" 2>/dev/null || true; fi
for p in kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$p"; done
rm -rf "$RUN"
