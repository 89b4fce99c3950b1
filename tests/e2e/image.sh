#!/usr/bin/env bash
# Builds the image from the static binaries of target/release-static/ and prints its size; fails above 50 MB.
#   image.sh                                 with docker, podman or buildah, whichever works here first
#   BUILDER=buildah IMAGE=localhost/ham4db:test image.sh
#   SOURCE=https://git.example.com/ham4db    where the sources are, for the image's label
# buildah builds without a registry, on bases made here from packages (tests/setup/ensure.sh bases); docker and podman
# pull the two public bases that the Dockerfile names, unless they have them.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/tests/cluster/env.sh"
: "${BUILDER:=}" "${BINARIES:=target/release-static}" "${SOURCE:=}"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
: "${IMAGE:=localhost/ham4db:$version}" "${LIMIT_MB:=50}"

for b in ham4db ham4db-client; do
    f=$root/$BINARIES/$b
    [ -x "$f" ] || die "no $BINARIES/$b: build it first (make image does)"
    ! readelf -l "$f" | grep -q INTERP || die "$BINARIES/$b is not static: it names a program interpreter"
done

if [ -z "$BUILDER" ]; then
    if docker info >/dev/null 2>&1; then BUILDER=docker
    elif podman info >/dev/null 2>&1; then BUILDER=podman
    elif command -v buildah >/dev/null; then BUILDER=buildah
    else die "neither docker, podman nor buildah works here; tests/setup/ensure.sh node-packages installs buildah"; fi
fi
revision=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
# The commit's time, so that a commit has one.
created=$(git -C "$root" show -s --format=%cI HEAD 2>/dev/null || date -u +%FT%TZ)
arguments=(--build-arg BUILD_BASE=debian:bookworm-slim --build-arg "PREBUILT=$BINARIES"
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
    --label "org.opencontainers.image.created=$created" -t "$IMAGE")
[ -z "$SOURCE" ] || arguments+=(--label "org.opencontainers.image.source=$SOURCE")
log=$(mktemp); trap 'rm -f "$log"' EXIT

case $BUILDER in
docker|podman)
    "$BUILDER" build "${arguments[@]}" "$root" >"$log" 2>&1 || { tail -30 "$log" >&2; die "$BUILDER build failed"; }
    bytes=$("$BUILDER" image inspect --format '{{.Size}}' "$IMAGE") ;;
buildah)
    "$root/tests/setup/ensure.sh" bases
    # Layers are kept for the next time, as they spare it apt. Those with binaries are of no use to it: a new build has new ones.
    before=$(buildah images -q --no-trunc "$IMAGE" 2>/dev/null || true)
    "$root/tests/cluster/bud.sh" --layers "${arguments[@]}" "$root" >"$log" 2>&1 || { tail -30 "$log" >&2; die "buildah failed"; }
    after=$(buildah images -q --no-trunc "$IMAGE")
    [ -z "$before" ] || [ "$before" = "$after" ] || buildah rmi "$before" >/dev/null 2>&1 || true
    buildah images -q --no-trunc --filter dangling=true --filter label=io.ham4db.stage=binaries | xargs -r buildah rmi -f >/dev/null 2>&1 || true
    container=$(buildah from --pull-never "$IMAGE")
    bytes=$(du -sb "$(buildah mount "$container")" | cut -f1)
    buildah rm "$container" >/dev/null ;;
*) die "BUILDER=$BUILDER: docker, podman or buildah" ;;
esac

awk -v bytes="$bytes" -v image="$IMAGE" -v limit="$LIMIT_MB" -v builder="$BUILDER" 'BEGIN {
    mb = bytes / 1e6
    printf "%s %.1f MB (at most %d), built by %s\n", image, mb, limit, builder
    exit mb > limit }'
