#!/usr/bin/env bash
# Ends what apiserver-up.sh started under RUN, by pid, and removes RUN.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/api}"
for p in kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$p"; done
rm -rf "$RUN"
