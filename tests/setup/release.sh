#!/usr/bin/env bash
# The static release build of image, packages, smoke and e2e: target/release-static/{ham4db,ham4db-client}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"$PWD/tests/setup/ensure.sh" tools
host=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-target}/$host/release
. tests/setup/cache.sh
[ -e "$built/ham4db" ] || echo "compiling the static release build, once: $(about 340)" >&2
# With the target named, crt-static reaches our binaries only, not build scripts and procedural macros.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" tests/setup/cargo.sh build --release --locked --bins --target "$host"
mkdir -p target/release-static
for program in ham4db ham4db-client; do
    if ! cmp -s "$built/$program" "target/release-static/$program"; then
        cp "$built/$program" "target/release-static/.$program"          # renamed into place: the old one may be running
        mv "target/release-static/.$program" "target/release-static/$program"
    fi
done
