#!/usr/bin/env bash
# Every check that runs nothing of the project: format, clippy, documentation, prose, shell scripts, dependencies. Changes no file.
# The programs that it needs are set up first.
# Ends with `N passed, N failed`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
stage=$PWD/tests/setup/stage.sh
passed=0 failed=0
# shellcheck source=cache.sh
. tests/setup/cache.sh
set +e                                       # a failed check is counted, and the next one runs
lint() { if "$stage" "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi; }

# One TLS library, and none that needs a C library of the machine: it could be a different one in each image, or missing.
one_tls_library() {
    ! grep -nE '^name = "(aws-lc-rs|aws-lc-sys|openssl|openssl-sys|native-tls|boring|boring-sys)"' Cargo.lock ||
        { echo "Cargo.lock: only rustls with ring is allowed; see deny.toml" >&2; return 1; }
}
shell_scripts() {
    local scripts
    mapfile -t scripts < <({ git ls-files -co --exclude-standard -- '*.sh' .ci/run 2>/dev/null || find tests deploy .ci -name '*.sh'; } | sort -u)
    shellcheck "${scripts[@]}"
}
# stage.sh is a program of its own: it finds functions only when they are exported.
export -f one_tls_library shell_scripts

tests/setup/ensure.sh cargo-tools || { echo "lint: cargo-deny and cargo-machete could not be set up" >&2; failed=$((failed + 1)); }
lint 'format' cargo fmt --check
lint 'clippy' tests/setup/cargo.sh clippy --all-targets --locked -- -D warnings
# With an example the dependencies have the tests' features: those that clippy has checked just now are not checked again.
lint 'documentation' env RUSTDOCFLAGS='-D warnings' tests/setup/cargo.sh doc --no-deps --locked --lib --example demo
lint 'prose' tests/setup/prose.py
lint 'one TLS library' one_tls_library
lint 'alerts and dashboard name what exists' tests/e2e/alerts.py check
deny=$(find_tool cargo-deny)
lint 'unused dependencies' "$(find_tool cargo-machete)" .
lint 'bans, licenses and sources of dependencies' "$deny" --locked check bans licenses sources
# Advisories and yanked releases need RustSec's database, which is fetched each time. One that was fetched before is better than none.
if "$deny" --locked fetch db >/dev/null 2>&1; then lint 'advisories' "$deny" --locked check --disable-fetch advisories
elif compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*/crates" >/dev/null; then
    echo "lint: https://github.com/RustSec/advisory-db cannot be fetched; advisories are checked with the copy that was fetched before" >&2
    lint 'advisories' "$deny" --locked check --disable-fetch advisories
else
    echo "lint: https://github.com/RustSec/advisory-db cannot be fetched: advisories and yanked releases are NOT checked" >&2
fi
if command -v shellcheck >/dev/null; then lint 'shellcheck' shell_scripts
elif [ -n "${CI:-}" ]; then echo "lint: shellcheck is missing: tests/setup/ensure.sh lint-tools" >&2; failed=$((failed + 1))
else echo "lint: shell scripts are not checked, as shellcheck is not installed" >&2; fi

echo
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
