#!/usr/bin/env bash
# run-tests.sh [TARGET...] : all tests but the long ones, cheapest first, then the demo; or the named integration tests of Cargo.toml, whole.
# Servers and the API server are set up in the background while cargo compiles. Ends with `N passed, N failed`, and with 0 only when
# nothing failed. An ignored test counts as failed: a test is there to run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
setup=$PWD/tests/setup
# shellcheck source=tools.sh
. "$setup/tools.sh"
passed=0 failed=0
log=$(mktemp)
servers=
# Whatever way this ends, the set-up in the background (with a process group of its own) ends too. Finished parts stay.
ended() { rm -f "$log"; resume; [ -z "$servers" ] || kill -- "-$servers" 2>/dev/null; }
trap ended EXIT
trap 'exit 130' INT TERM

# In the order of Cargo.toml, which lists them from quick to slow.
mapfile -t targets < <(awk '/^\[/ { test = $0 == "[[test]]" } test && /^name *=/ { gsub(/.*= *"|".*/, ""); print }' Cargo.toml)
everything=
if [ $# -gt 0 ]; then targets=("$@"); else everything=1; fi
# Too long for every run, and named: make deployments.
[ -z "$everything" ] || mapfile -t targets < <(printf '%s\n' "${targets[@]}" | grep -vx deployments)

# A process group that CI lets work beside the tests, which must not while short times are measured.
pause() { [ -z "${HAM4DB_PAUSE_GROUP:-}" ] || kill -STOP -- "-$HAM4DB_PAUSE_GROUP" 2>/dev/null; }
resume() { [ -z "${HAM4DB_PAUSE_GROUP:-}" ] || kill -CONT -- "-$HAM4DB_PAUSE_GROUP" 2>/dev/null; }

# Variants of other scenarios and long ones: only when the scenarios are asked for by name (make scenarios).
without_long=()
while read -r name; do without_long+=(--skip "$name"); done <tests/scenarios/long.txt

# What a target needs beside cargo. Scenarios take slots of their own (tests/kit/schedule.rs): two run side by side on two cores, unless
# one needs the machine alone. Those of kube share an API server. store and servers_adapter run one test at a time.
needs() {
    case $1 in
        store|servers_adapter) echo mysql mariadb ;;
        deployments) echo mysql ;;
        publishers) echo tools kube-api zookeeper ;;
        scenarios) echo mysql mariadb haproxy kube-api ;;
        kube) echo mysql kube-api kubectl ;;
    esac
}
threads() {
    case $1 in
        store|servers_adapter|deployments) echo --test-threads=1 ;;
        publishers|scenarios) echo --test-threads=2 ;;
        kube) echo --test-threads=3 ;;
    esac
}

# count COMMAND... : runs it, and adds up the results that cargo prints.
count() {
    local code=0 result here_passed=0 here_failed=0
    "$@" 2>&1 | tee "$log" || code=$?
    while read -r result; do
        [[ $result =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]] || continue
        here_passed=$((here_passed + BASH_REMATCH[1]))
        here_failed=$((here_failed + BASH_REMATCH[2] + BASH_REMATCH[3]))
    done < <(grep '^test result:' "$log")
    [ "$code" != 124 ] || echo "FAILED $*: did not end within $((limit_seconds / 60)) min; seconds of each scenario: $CACHE/logs/scenarios.tsv"
    # A test program that does not compile, or dies, prints no result.
    if [ "$code" != 0 ] && [ "$here_failed" = 0 ]; then here_failed=1; fi
    passed=$((passed + here_passed)) failed=$((failed + here_failed))
    [ "$here_failed" = 0 ]
}
# A test that hangs ends its program after this time. Not on a terminal: there Ctrl-C has to reach the tests, and timeout keeps it from them.
limit_seconds=2700
limit=(timeout --kill-after=10 "$limit_seconds")
[ ! -t 0 ] || limit=()
tests() { count "${limit[@]}" cargo test --quiet --locked --no-fail-fast "$@"; }

wanted=()
for target in "${targets[@]}"; do read -ra needed <<<"$(needs "$target")"; wanted+=("${needed[@]}"); done
[ -z "$everything" ] || wanted+=(mysql)
if [ ${#wanted[@]} -gt 0 ]; then
    set -m                                    # a process group of its own, so that all of it can be ended
    nice -n 5 "$setup/ensure.sh" "${wanted[@]}" </dev/null &
    servers=$!
    set +m
fi
# timed NAME COMMAND... : as stage.sh, in this shell, as the counts are kept here.
timed() {
    local name=$1 begun=$SECONDS verdict='done'; shift
    printf '\n== %s\n' "$name"
    "$@" || verdict=FAILED
    printf '== %s: %s after %d s\n' "$name" "$verdict" $((SECONDS - begun))
    [ "$verdict" = 'done' ]
}

compiled=1
[ -d "${CARGO_TARGET_DIR:-target}/debug" ] || echo "compiling all dependencies, ham4db and its tests, once: $(. "$setup/cache.sh"; about 160)" >&2
timed 'compile' tests/setup/cargo.sh test --locked --no-run || { compiled=; failed=$((failed + 1)); }
if [ -n "$compiled" ]; then
    [ -z "$everything" ] || timed 'unit tests' tests --lib --bins
    for target in "${targets[@]}"; do
        if [ -n "$(needs "$target")" ] && [ -n "$servers" ]; then
            if wait "$servers"; then servers=
            else servers=; echo "set-up failed, see above: the tests that need servers cannot run" >&2; failed=$((failed + 1)); break; fi
        fi
        read -ra flags <<<"$(threads "$target")"
        if [ "$target" = scenarios ]; then pause; [ -z "$everything" ] || flags+=("${without_long[@]}"); fi
        timed "$target tests" tests --test "$target" -- "${flags[@]}"
        resume
    done
    if [ -n "$everything" ]; then
        if [ -n "$servers" ]; then wait "$servers" || failed=$((failed + 1)); servers=; fi
        if timed 'demo' make --no-print-directory demo </dev/null; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    fi
fi

echo
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
