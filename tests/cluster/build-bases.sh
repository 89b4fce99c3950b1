#!/usr/bin/env bash
# Local stand-ins for public base images, from Debian's packages and this machine's own Rust toolchain. Root.
#   build-bases.sh slim         debian:bookworm-slim (40 s, 180 MB)
#   build-bases.sh rust         that and rust:VERSION-bookworm (2 min, 1.3 GB): to compile inside an image
# An unchanged Dockerfile builds on them with bud.sh: a short name such as rust:1.95-bookworm finds localhost/rust:1.95-bookworm.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
what=${1:-slim}
: "${SUITE:=bookworm}"
: "${MIRROR:=$(. "$here/../setup/cache.sh"; . "$here/../setup/apt.sh"; machine_mirror)}"
: "${PACKAGES_OF:=$(. /etc/os-release; [ "$ID" = ubuntu ] && echo "$VERSION_CODENAME" || echo "$SUITE")}"   # Ubuntu's mirror has no bookworm
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# base TAG ROOTFS.tar [buildah config flags...]
base() {
    local tag=$1 tar=$2 c; shift 2
    c=$(buildah from scratch)
    buildah add -q "$c" "$tar" / >/dev/null
    [ $# = 0 ] || buildah config "$@" "$c"
    buildah commit -q --rm "$c" "$tag" >/dev/null
    say "$tag"
}

slim=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')
# Certificate authorities added to this machine (say a registry mirror's) travel with the images, else cargo fails in RUN steps. They
# go where update-ca-certificates looks, because installing ca-certificates in a RUN step writes the bundle anew.
ca=(--customize-hook='mkdir -p "$1/etc/ssl/certs" "$1/usr/local/share/ca-certificates"
    cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
    cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || true')

mmdebstrap --quiet --variant=minbase "${slim[@]}" "${ca[@]}" --skip=cleanup/apt/lists "$PACKAGES_OF" "$work/slim.tar" "$MIRROR"
base "localhost/debian:$SUITE-slim" "$work/slim.tar" --cmd bash
[ "$what" = rust ] || exit 0

: "${RUST_TAG:=$(rustc --version | sed -E 's/rustc ([0-9]+\.[0-9]+).*/\1/')-$SUITE}"
mkdir -p "$work/rust/toolchain"
sysroot=$(rustc --print sysroot)
(cd "$sysroot" && tar c --exclude=share/doc --exclude=share/man .) | tar x -C "$work/rust/toolchain"
cat >"$work/rust/Dockerfile" <<EOT
FROM localhost/debian:$SUITE-slim
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates curl git libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/rustup
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/rustup/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EOT
"$here/bud.sh" -q -t "localhost/rust:$RUST_TAG" "$work/rust" >/dev/null
say "localhost/rust:$RUST_TAG"
