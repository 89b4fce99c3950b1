# shellcheck shell=bash
# Sourced. One line per check, and a closing count that decides the exit code.
passed=0 failed=0

# check NAME COMMAND... : once, now.
check() {
    local name=$1 output; shift
    if output=$("$@" 2>&1); then good "$name"; else bad "$name" "$output"; fi
}

# within SECONDS NAME COMMAND... : as soon as COMMAND succeeds; the line says how long that took.
within() {
    local limit=$1 name=$2 begun; shift 2
    begun=$(now_ms)
    if wait_for "$limit" "$@"; then good "$name ($(( $(now_ms) - begun )) ms)"
    else bad "$name: not within $limit s" "$("$@" 2>&1 || true)"; fi
}

good() { printf 'ok - %s\n' "$1"; passed=$((passed + 1)); }
bad() { printf 'FAIL - %s\n' "$1"; [ -z "${2:-}" ] || tail -n 8 <<<"$2" | sed 's/^/       /'; failed=$((failed + 1)); }
now_ms() { echo $(( $(date +%s%N) / 1000000 )); }

# closing CODE : last in the EXIT trap, with the exit code the script was about to have. A script that means to end sets finished=yes.
closing() {
    [ "${finished:-}" = yes ] || bad "the script ended early, with exit code $1"
    printf '%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ] || exit 1
}
