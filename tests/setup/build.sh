#!/usr/bin/env bash
# build.sh [EXAMPLE] : compiles the two programs and the examples demo, bench, fleet and chaos, or one of them, by one call of cargo. Prints how long
# that takes when everything is to be compiled. An example has the tests' features of each dependency, so `make test` compiles none again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/setup/cache.sh
[ -e "${CARGO_TARGET_DIR:-target}/debug/ham4db" ] || echo "compiling all dependencies and ham4db, once: $(about 112)" >&2
if [ $# = 0 ]; then examples=(--examples); else examples=(--example "$1"); fi
exec tests/setup/cargo.sh build --locked --bins "${examples[@]}"
