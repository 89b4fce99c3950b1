#!/usr/bin/env bash
# Loads images from buildah's local storage into every node of the running cluster: image-load.sh localhost/ham4db:test ...
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
tar=$(mktemp -u); trap 'rm -f "$tar"' EXIT
for i in "$@"; do
    rm -f "$tar"
    buildah push -q "$i" "docker-archive:$tar:$i"
    for s in "$RUN"/node*/containerd.sock; do ctr --address "$s" -n k8s.io images import "$tar" >/dev/null; done
    say "loaded $i"
done
