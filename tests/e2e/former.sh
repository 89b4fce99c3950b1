# shellcheck shell=bash
# Sourced. The version before this one, from which an upgrade comes and to which a rollback goes back: its binaries, chart and definition.
FORMER_VERSION=0.2.0 FORMER_COMMIT=2dad7dd28c5cf2683fbcfc112ba3a75365e2f579
former=$HAM4DB_TEST_DIR/former/$FORMER_COMMIT

# Compiled once, from the history of this repository, and kept in the cache folder.
ensure_former() {
    local making=$former.making
    [ ! -x "$former/target/release-static/ham4db" ] || return 0
    git -C "$root" cat-file -e "$FORMER_COMMIT^{commit}" 2>/dev/null \
        || die "version $FORMER_VERSION ($FORMER_COMMIT) is not in the history here: git fetch --unshallow"
    say "compiling version $FORMER_VERSION, to upgrade from it: about 5 min, once, 40 MB in $former"
    rm -rf "$making"; mkdir -p "$making"
    git -C "$root" archive "$FORMER_COMMIT" | tar -x -C "$making"
    CARGO_TARGET_DIR=$making/target "$making/tests/setup/release.sh"
    find "$making/target" -mindepth 1 -maxdepth 1 ! -name release-static -exec rm -rf {} +
    mv "$making" "$former"
}
