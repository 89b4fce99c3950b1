# shellcheck shell=bash
# Sourced. Go, Kubernetes and helm, all from their sources or Debian's packages, and promtool: no prebuilt binary is fetched but theirs.
# How they are built stands in tests/cluster/.

cluster=$repository/tests/cluster
bin=$CACHE/bin
own_go=$CACHE/go
tried_go=1.26

# found_at_least NAME VERSION COMMAND... : whether the program that find_tool finds reports at least VERSION. COMMAND prints what it reports.
found_at_least() {
    local program version name=$1 wanted=$2; shift 2
    program=$(find_tool "$name") || return 1
    version=$("$@" "$program" 2>/dev/null) || return 1
    [ -n "$version" ] && version_at_least "$version" "$wanted"
}
go_version() { "$1" version | sed -nE 's/^go version go([0-9.]+).*/\1/p'; }
go_ready() { found_at_least go 1.24 go_version; }
# Debian's and Ubuntu's own kubectl may be years behind; the API is spoken two minor versions apart. The number ends at the first letter
# or hyphen: some distributions add a word of their own, as in v1.32.4-dispatcher.
kubectl_version() { "$1" version --client | sed -nE 's/.*GitVersion:"v([0-9.]+).*|^Client Version: v([0-9.]+).*/\1\2/p' | head -n 1; }
kubectl_ready() { found_at_least kubectl 1.31 kubectl_version; }
helm_version() { "$1" version --template '{{.Version}}' | sed -nE 's/^v([0-9.]+).*/\1/p'; }
helm_ready() { found_at_least helm 3.8 helm_version; }
kube_version() { "$1" --version | sed -nE 's/^(Kubernetes v|etcd Version: )([0-9.]+).*/\2/p'; }
kube_api_ready() { found_at_least kube-apiserver 1.33 kube_version && found_at_least etcd 3.5 kube_version; }
promtool_ready() { find_tool promtool >/dev/null; }
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
# The image store is root's, so only root can look. Other users find the note that set_up_bases leaves.
bases_ready() {
    if [ "$(id -u)" = 0 ]; then buildah inspect --type image localhost/debian:bookworm-slim >/dev/null 2>&1; else [ -f "$CACHE/bases" ]; fi
}
small_tools=(openssl git xz cc)
tools_ready() { local tool; for tool in "${small_tools[@]}"; do command -v "$tool" >/dev/null || return 1; done; }

lint_tools_ready() { command -v shellcheck >/dev/null; }
# Versions that are known to read this project's Cargo.lock and deny.toml. Each lies in a folder that its version names.
cargo_tools=(cargo-deny@0.20.2 cargo-machete@0.9.2)
cargo_tools_ready() {
    local tool
    for tool in "${cargo_tools[@]}"; do [ -f "$CACHE/cargo-tools/$tool" ] && [ -x "$bin/${tool%@*}" ] || return 1; done
}

set_up_lint_tools() { machine_tools shellcheck; }
# Compiled without optimisation: that takes a quarter of the time, and a check takes a second either way.
set_up_cargo_tools() {
    local tool
    partial cargo-tools
    mkdir -p "$bin" "$CACHE/cargo-tools"
    for tool in "${cargo_tools[@]}"; do
        [ ! -f "$CACHE/cargo-tools/$tool" ] || [ ! -x "$bin/${tool%@*}" ] || continue
        say "compiling $tool"
        quietly env CARGO_TARGET_DIR="$partial/target" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=true \
            cargo install --locked --debug --no-track --root "$partial/root" "$tool"
        mv "$partial/root/bin/${tool%@*}" "$bin/${tool%@*}"
        rm -f "$CACHE/cargo-tools/${tool%@*}"@*
        touch "$CACHE/cargo-tools/$tool"
    done
}
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
