# shellcheck shell=bash
# Sourced. Go, Kubernetes and helm, all from their sources or Debian's packages, and promtool: no prebuilt binary is fetched but theirs.
# How they are built stands in tests/cluster/.

cluster=$repository/tests/cluster
bin=$CACHE/bin
own_go=$CACHE/go
tried_go=1.26

# A program of the cache, or the machine's.
have() { [ -x "$bin/$1" ] || command -v "$1" >/dev/null; }

go_version() { "$1" version 2>/dev/null | sed -nE 's/^go version go([0-9.]+).*/\1/p'; }
go_ready() {
    local version go
    for go in "$bin/go" go; do
        version=$(go_version "$go") || true
        if [ -n "$version" ] && version_at_least "$version" 1.24; then return 0; fi
    done
    return 1
}
# Debian's and Ubuntu's own kubectl may be years behind; the API is spoken two minor versions apart.
kubectl_ready() {
    [ ! -x "$bin/kubectl" ] || return 0
    local version
    version=$(kubectl version --client 2>/dev/null | sed -nE 's/.*GitVersion:"v([0-9.]+).*|^Client Version: v([0-9.]+).*/\1\2/p' | head -n 1) || return 1
    [ -n "$version" ] && version_at_least "$version" 1.31
}
kube_api_ready() { [ -x "$bin/kube-apiserver" ] && [ -x "$bin/etcd" ]; }
helm_ready() { have helm; }
promtool_ready() { have promtool; }
node_programs=(kube-controller-manager kube-scheduler kubelet kube-proxy coredns)
node_images=(pause busybox coredns)
kube_node_ready() {
    local name
    for name in "${node_programs[@]}"; do [ -x "$bin/$name" ] || return 1; done
    for name in "${node_images[@]}"; do [ -f "$CACHE/images/$name.tar" ] || return 1; done
}
node_packages_ready() {
    local program
    for program in containerd ctr runc nft iptables conntrack ip sysctl busybox buildah mmdebstrap cc wget openssl python3; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || return 1
    done
    [ -x /usr/lib/cni/bridge ]
}
# The image store is root's, so only root can look; anybody else finds the note that set_up_bases leaves.
bases_ready() {
    if [ "$(id -u)" = 0 ]; then buildah inspect --type image localhost/debian:bookworm-slim >/dev/null 2>&1; else [ -f "$CACHE/bases" ]; fi
}
small_tools=(openssl git xz cc)
tools_ready() { local tool; for tool in "${small_tools[@]}"; do command -v "$tool" >/dev/null || return 1; done; }

lint_tools_ready() { command -v shellcheck >/dev/null; }

set_up_lint_tools() { machine_tools shellcheck; }
set_up_tools() { machine_tools "${small_tools[@]}"; }

# Go's compiler and library, unpacked like the servers: the release that Kubernetes was built with here before, or, when unstable has
# moved on, the newest.
set_up_go() {
    ! go_ready || return 0
    partial go
    local package release
    if [ "$ID" = ubuntu ]; then private_apt "$partial/apt" "$codename" 'main universe'; else private_apt "$partial/apt" sid main; fi
    package=$(apt-cache "${apt_options[@]}" pkgnames golang-1 | grep -xE 'golang-1\.[0-9]+-go' | sort -V | tee "$partial/releases" | tail -n 1)
    if grep -qx "golang-$tried_go-go" "$partial/releases"; then package=golang-$tried_go-go; fi
    release=${package#golang-} release=${release%-go}
    if [ -z "$release" ] || ! version_at_least "$release" 1.24; then
        die "no Go >= 1.24 in the archive of this machine: put a newer one into PATH"
    fi
    say "downloading Go $release"
    (cd "$partial/apt" && quietly apt-get "${apt_options[@]}" download "golang-$release-go" "golang-$release-src")
    mkdir -p "$partial/root"
    local deb
    for deb in "$partial"/apt/*.deb; do quietly dpkg-deb -x "$deb" "$partial/root"; done
    printf '#!/bin/sh\nGOROOT=%s GOTOOLCHAIN=local exec %s/bin/go "$@"\n' "$own_go/usr/lib/go-$release" "$own_go/usr/lib/go-$release" >"$partial/go"
    chmod +x "$partial/go"
    settle "$partial/root" "$own_go"
    mkdir -p "$bin"
    mv "$partial/go" "$bin/go"
    say "$("$bin/go" version)"
}

# One program out of Prometheus' package, which is not installed: it would start a service.
set_up_promtool() {
    ! promtool_ready || return 0
    partial promtool
    private_apt "$partial/apt" "$codename" "$([ "$ID" = ubuntu ] && echo 'main universe' || echo main)"
    say "downloading promtool"
    (cd "$partial/apt" && quietly apt-get "${apt_options[@]}" download prometheus)
    quietly dpkg-deb -x "$partial"/apt/prometheus_*.deb "$partial/root"
    mkdir -p "$bin"
    mv "$partial/root/usr/bin/promtool" "$bin/promtool"
    say "$("$bin/promtool" --version 2>&1 | head -n 1)"
}

# All builds share modules and compiled packages, so one at a time.
build_programs() {
    exec 7>"$CACHE/locks/go-build"
    flock -w 3600 7 || die "another Go build is still at it after an hour"
    say "building $1: progress in $CACHE/logs"
    quietly env HAM4DB_TEST_DIR="$CACHE" nice -n 10 "$cluster/build-binaries.sh" "$1" 7>&-
}
set_up_kube_api() { kube_api_ready || build_programs api; }
set_up_kubectl() { kubectl_ready || build_programs kubectl; }
set_up_helm() { helm_ready || build_programs helm; }
set_up_node_packages() { node_packages_ready || quietly as_root "$cluster/packages.sh"; }
set_up_kube_node() {
    local name missing=''
    build_programs node
    for name in "${node_images[@]}"; do [ -f "$CACHE/images/$name.tar" ] || missing=1; done
    if [ -n "$missing" ]; then
        quietly as_root env HAM4DB_TEST_DIR="$CACHE" "$cluster/build-images.sh"
        as_root chown -R "$(id -u):$(id -g)" "$CACHE/images"
    fi
    # Modules and compiled packages are ten times the size of what came out of them, and all is built now.
    rm -rf "$CACHE/go-build" "$CACHE/go-modules"
}
set_up_bases() {
    quietly as_root env HAM4DB_TEST_DIR="$CACHE" MIRROR="$(machine_mirror)" "$cluster/build-bases.sh" slim
    touch "$CACHE/bases"
}
