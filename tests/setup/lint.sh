#!/usr/bin/env bash
# Every check that runs nothing of the project: format, clippy, documentation, shell scripts, dependencies. Changes no file.
# Ends with `N passed, N failed`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
stage=$PWD/tests/setup/stage.sh
passed=0 failed=0
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

lint 'format' cargo fmt --check
lint 'clippy' cargo clippy --quiet --all-targets --locked -- -D warnings
lint 'documentation' env RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --locked --lib
lint 'one TLS library' one_tls_library
lint 'alerts and dashboard name what exists' tests/e2e/alerts.py check
if command -v cargo-deny >/dev/null; then lint 'cargo deny' cargo deny --locked check; fi
if command -v shellcheck >/dev/null; then lint 'shellcheck' shell_scripts
elif [ -n "${CI:-}" ]; then echo "lint: shellcheck is missing: tests/setup/ensure.sh lint-tools" >&2; failed=$((failed + 1))
else echo "lint: shell scripts are not checked, as shellcheck is not installed" >&2; fi

echo
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
