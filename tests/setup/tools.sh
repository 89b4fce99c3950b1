# shellcheck shell=bash
# Sourced. Where the cache folder is, and the one rule by which a program is found: in the cache's bin folder first, then in PATH.
# Set-up decides by the same rule whether a part is missing. tests/kit/tools.rs is the same rule for the tests.
: "${CACHE:=${HAM4DB_TEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ham4db}}"
export CACHE

# find_tool NAME : prints the path of a program. Fails when there is none.
find_tool() {
    if [ -x "$CACHE/bin/$1" ] && [ ! -d "$CACHE/bin/$1" ]; then echo "$CACHE/bin/$1"; else type -P "$1"; fi
}
