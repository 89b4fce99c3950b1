#!/usr/bin/env bash
# bare.sh set-up|proof : a machine without Go, kubectl, helm, MySQL and MariaDB, made of this one by a PATH that lacks them (bare-path.sh) and
# by a cache folder of its own, $CACHE/bare. So neither proves anything by what the tests have set up, nor hides from them what the machine has.
#   set-up   sets up what such a machine needs
#   proof    what was set up runs, and tests on an API server find and use it
# kube-apiserver and etcd are those of the tests: no machine brings its own, and kubectl and helm show that the Go of set-up compiles.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cache.sh"
parts=(mysql mariadb go kubectl helm)
all=$CACHE
api_server=$(find_tool kube-apiserver) && etcd=$(find_tool etcd) || die "set up kube-api first: ensure.sh kube-api"
bare_path=$("$here/bare-path.sh")
trap 'rm -rf "$bare_path"' EXIT
PATH=$bare_path CACHE=$all/bare

case ${1:-} in
    set-up)
        # Modules, and what this Go has compiled, are shared.
        GO_CACHES=$all "$here/ensure.sh" "${parts[@]}"
        mkdir -p "$CACHE/bin"
        ln -sf "$api_server" "$etcd" "$CACHE/bin/" ;;
    proof)
        for program in go kubectl helm mysqld mariadbd; do
            if type -P "$program" >/dev/null; then die "the bare PATH has $program"; fi
        done
        "$here/ensure.sh" --check "${parts[@]}" kube-api
        "$(find_tool go)" version
        "$(find_tool kubectl)" version --client
        "$(find_tool helm)" version
        "$CACHE/servers/mysql/run" mysqld --version
        "$CACHE/servers/mariadb/run" mariadbd --version
        cd "$repository"
        code=0
        cargo test --quiet --locked --test kube definition:: -- --test-threads=3 || code=$?
        # The API server of the tests is ended after them, by programs of this PATH.
        for ((i = 0; i < 100; i++)); do
            compgen -G "$CACHE/run/test-kube-*" >/dev/null || break
            sleep 0.2
        done
        exit "$code" ;;
    *) die 'bare.sh set-up or bare.sh proof' ;;
esac
