#!/usr/bin/env bash
# run-example.sh NAME PART... : runs demo, bench, fleet or chaos. The parts of ensure.sh are set up while cargo compiles. Prints at the end where the
# time went. The binaries and the examples are those of the tests: one profile, one set of features, nothing is compiled twice.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
setup=$PWD/tests/setup
name=$1; shift
servers='' log=$(mktemp)
ended() { rm -f "$log"; [ -z "$servers" ] || kill -- "-$servers" 2>/dev/null; }
trap ended EXIT
trap 'exit 130' INT TERM
begun=$SECONDS

"$setup/ensure.sh" tools || exit                   # the compiler's linker is one of them
set -m                                             # a process group of its own, so that all of it can be ended
{ from=$SECONDS; "$setup/ensure.sh" "$@"; code=$?; echo $((SECONDS - from)) >"$log"; exit "$code"; } </dev/null &
servers=$!
set +m
from=$SECONDS
"$setup/stage.sh" 'compile' "$setup/build.sh" "$name" || exit
compiled=$((SECONDS - from))
wait "$servers"
code=$?
servers=
[ "$code" = 0 ] || exit "$code"
from=$SECONDS
trap : INT                                         # Ctrl-C ends the demo that was kept running; the times are printed nevertheless
program=("${CARGO_TARGET_DIR:-target}/debug/examples/$name")
# How long chaos lasts. Under its own name bash would count it up.
[ -z "${CHAOS_SECONDS:-}" ] || program=(env "SECONDS=$CHAOS_SECONDS" "${program[@]}")
"$setup/stage.sh" "$name" "${program[@]}"
code=$?
printf 'time: set-up %d s beside compile %d s, %s %d s; %d s in all\n' "$(cat "$log")" "$compiled" "$name" $((SECONDS - from)) $((SECONDS - begun))
(exit "$code")
