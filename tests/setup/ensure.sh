#!/usr/bin/env bash
# ensure.sh WHAT... : sets up what the tests, the demo and the bench run on, into one cache folder, and skips what is there.
#   mysql        MySQL (9.7 on Debian, the distribution's on Ubuntu)          mariadb   MariaDB of this distribution
#   go           Go >= 1.24, only when the machine has none new enough        kubectl   kubectl, only when the machine has none new enough
#   kube-api     kube-apiserver and etcd                                      helm      helm, only when the machine has none
#   kube-node    all of a node: system packages (root or sudo), kubelet, CoreDNS, the images of a bare cluster; has kube-api, kubectl, helm
#   bases        base images for `make image` by buildah (root or sudo)       tools     the small programs that the scripts call
#   node-packages  the system packages of kube-node alone                     lint-tools  shellcheck
#   cargo-tools  cargo-deny and cargo-machete, of pinned versions
#   promtool     promtool of this distribution, only when the machine has none
#   haproxy      HAProxy of this distribution, only when the machine has none new enough
#   zookeeper    ZooKeeper of this distribution, with a Java only when the machine has none
# ensure.sh --check WHAT... : 0 when all is there, else prints what is missing. Changes nothing.
# ensure.sh --where mysql|mariadb : the folder of that server, on stdout (see below), set up or not.
#
# When something is missing, the first line on stderr lists what will be set up, with its time and its size.
# Any number may run at once (a lock for each part), it may be stopped at any time (parts are renamed into place when whole), and
# what is missing of apt's common tools is installed with root or sudo, and said.
#
# What others may rely on (the folder is called $CACHE below):
#   $CACHE = ${XDG_CACHE_HOME:-$HOME/.cache}/ham4db
#   $CACHE/servers/mysql/, $CACHE/servers/mariadb/
#       run          `run mysqld ARGS...`, `run mariadbd ARGS...`: becomes (exec) the server, with --no-defaults and the folders it
#                    needs; an option about option files may come first. Also the clients: `run mysql ...`, `run mariadb ...`.
#       template/    an empty, initialised data directory: root@localhost without a password, no auto.cnf, TLS keys made. Copy it for
#                    each server, give the copy to the server's user, and start with --datadir.
#       VERSION      e.g. 9.7.4
#   $CACHE/servers/own/  the same for the server that HAM4DB_TEST_MYSQLD names, plus FLAVOUR (mysql or mariadb). With that variable
#                    set, `ensure.sh mysql` (or mariadb, whichever it is) sets up this one, and `--where` prints its folder.
#   $CACHE/servers/haproxy/run  `run haproxy ARGS...`: becomes HAProxy out of its unpacked packages, with the libraries that came along.
#   $CACHE/zookeeper/run  `run CONFIGURATION` becomes a ZooKeeper server.
#   $CACHE/bin/      kube-apiserver, etcd, ...; and go, kubectl, helm, haproxy when they were set up here. A program is looked for in
#                    this folder first, then in PATH: find_tool in tests/setup/tools.sh.
#   $CACHE/run/NAME/ what runs now: each test, demo and bench makes a folder of its own there and removes it. `make clean` empties it.
# Servers, members and writers are started through tests/setup/unprivileged.sh, which is `exec` when not root; as root they run as
# user and group 65534, which has to own their folder under $CACHE/run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cache.sh"; . "$here/apt.sh"; . "$here/servers.sh"; . "$here/kubernetes.sh"; . "$here/zookeeper.sh"

# What HAM4DB_TEST_MYSQLD stands for: mysql, mariadb, or nothing.
own_flavour() {
    [ -n "${HAM4DB_TEST_MYSQLD:-}" ] || return 0
    case $("$HAM4DB_TEST_MYSQLD" --no-defaults --version 2>/dev/null) in
        *MariaDB*) echo mariadb ;;
        *Ver*) echo mysql ;;
        *) die "HAM4DB_TEST_MYSQLD=$HAM4DB_TEST_MYSQLD does not answer to --version as a server does" ;;
    esac
}

# What it is called, how long it takes on two cores and a usual line, and what it leaves in the cache.
describe() {
    case $1 in
        mysql) echo 'MySQL (20 s, 440 MB)' ;;
        mariadb) echo 'MariaDB (10 s, 230 MB)' ;;
        own) echo 'a data directory of your own server (10 s, 100 MB)' ;;
        go) echo 'Go (1 min, 270 MB)' ;;
        kubectl) echo 'kubectl (3 min, 60 MB)' ;;
        kube-api) echo 'kube-apiserver and etcd (6 min, 130 MB)' ;;
        helm) echo 'helm (3 min, 60 MB)' ;;
        kube-node) echo 'kubelet, controllers, CoreDNS and images (6 min, 450 MB)' ;;
        bases) echo 'base images for buildah (30 s, 180 MB in the image store)' ;;
        node-packages) echo 'node packages by apt (10 s, 300 MB installed)' ;;
        promtool) echo 'promtool (30 s, 50 MB)' ;;
        haproxy) echo 'HAProxy (10 s, 40 MB)' ;;
        zookeeper) echo 'ZooKeeper (20 s, 10 MB)' ;;
        lint-tools) echo 'shellcheck by apt (10 s, 30 MB)' ;;
        cargo-tools) echo "cargo-deny and cargo-machete ($(about 45), 30 MB)" ;;
        tools) echo 'small tools by apt (10 s, 50 MB)' ;;
    esac
}

mode=ensure
case ${1:-} in
    --check) mode=check; shift ;;
    --where)
        flavour=${2:?mysql or mariadb}
        if [ "$(own_flavour)" = "$flavour" ]; then echo "$own_home"; else echo "$CACHE/servers/$flavour"; fi
        exit 0 ;;
    ''|-h|--help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac

# The parts in the order that their dependencies want, each once.
flavour_of_own=$(own_flavour)
wanted=' '
want() { case $wanted in *" $1 "*) ;; *) wanted+="$1 " ;; esac; }
for what in "$@"; do
    case $what in
        "$flavour_of_own") want own ;;
        bases) want node-packages; want bases ;;
        mysql|mariadb|tools|node-packages|lint-tools) want "$what" ;;
        cargo-tools) want tools; want "$what" ;;
        go|promtool|haproxy|zookeeper) want "$what" ;;
        kubectl|kube-api|helm) want tools; want "$what" ;;
        kube-node) want tools; want node-packages; want kube-api; want kubectl; want helm; want kube-node ;;
        *) die "unknown part '$what': see ensure.sh --help" ;;
    esac
done

missing=()
for part in $wanted; do
    "${part//-/_}_ready" || missing+=("$part")
done
# Only what is compiled here needs a compiler, and only as long as it is not compiled.
case " ${missing[*]:-} " in
    *" kubectl "*|*" kube-api "*|*" helm "*|*" kube-node "*)
        case " ${missing[*]} " in *" go "*) ;; *) go_ready || missing=(go "${missing[@]}") ;; esac ;;
esac
[ ${#missing[@]} -gt 0 ] || exit 0

plan=''
for part in "${missing[@]}"; do plan+="${plan:+, }$(describe "$part")"; done
if [ "$mode" = check ]; then say "missing: $plan"; exit 1; fi
say "setting up, once, in $CACHE: $plan"
begun=$SECONDS
for part in "${missing[@]}"; do step "$part" "set_up_${part//-/_}"; done
say "all ready after $((SECONDS - begun)) s"
