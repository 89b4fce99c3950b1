#!/usr/bin/env bash
# Builds Kubernetes, etcd, CoreDNS and helm from Go modules into $BIN; no prebuilt binary is fetched. Skips what is there already.
#   build-binaries.sh api       kube-apiserver and etcd only (what apiserver-up.sh needs)
#   build-binaries.sh kubectl
#   build-binaries.sh helm
#   build-binaries.sh node      what a node and the control plane need besides: controllers, scheduler, kubelet, kube-proxy, CoreDNS
#   build-binaries.sh           api, node and helm
# Go's modules and build cache (up to 7 GB) lie in $GO_CACHES, by default $HAM4DB_TEST_DIR as well, and may be removed when all is built.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
what=${1:-all}
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS='-buildvcs=false -modcacherw'
: "${GO_CACHES:=$HAM4DB_TEST_DIR}"
export GOCACHE=$GO_CACHES/go-build GOMODCACHE=$GO_CACHES/go-modules
src=$HAM4DB_TEST_DIR/src/$KUBE_VERSION
mkdir -p "$BIN" "$src/kubernetes" "$src/coredns"
t0=$(date +%s); took() { say "$1 after $(( $(date +%s) - t0 )) s"; }
commands=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

# Kubernetes' go.mod replaces its k8s.io/* modules by folders of its own repository, and a replace of a dependency does not count.
# So name each one here, at the version published for this release: 1.33.13 goes with v0.33.13.
kubernetes_module() {
    cd "$src/kubernetes"
    grep -qs "kubernetes/cmd/kubectl" go.mod && [ -f go.sum ] && return
    local upstream m wanted=()
    printf 'module test.local/kubernetes\ngo 1.24.0\n' >go.mod
    rm -f go.sum
    upstream=$(go mod download -json "k8s.io/kubernetes@v$KUBE_VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
    sed -nE 's#^\s*(replace )?(k8s\.io/[^ ]+) => \./staging/.*#\2#p' "$upstream" |
        while read -r m; do go mod edit -replace "$m=$m@v0${KUBE_VERSION#1}"; done
    for m in "${commands[@]}"; do wanted+=("k8s.io/kubernetes/cmd/$m@v$KUBE_VERSION"); done
    go get -tool "${wanted[@]}" "go.etcd.io/etcd/server/v3@v$ETCD_VERSION"
    took "modules"
}

# CoreDNS with only the plugins that a test cluster's Corefile names: a third of the build, half of the binary.
coredns_module() {
    cd "$src/coredns"
    [ ! -f go.sum ] || return 0
    printf 'module test.local/coredns\ngo 1.24.0\n' >go.mod
    {
        echo 'package main'; echo 'import ('; echo '"github.com/coredns/coredns/coremain"'
        for p in errors health kubernetes ready template; do echo "_ \"github.com/coredns/coredns/plugin/$p\""; done
        echo ')'; echo 'func main() { coremain.Run() }'
    } >main.go
    go get "github.com/coredns/coredns@v$COREDNS_VERSION"
    go mod tidy
}

v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=v$KUBE_VERSION -X $v.gitMajor=1 -X $v.gitMinor=$(cut -d. -f2 <<<"$KUBE_VERSION")"

# build NAME MODULE PACKAGE : put in place when whole, so that a stopped build leaves no half of a program.
build() {
    [ ! -x "$BIN/$1" ] || return 0
    "$2"
    go build -trimpath -ldflags "$ldflags" -o "$BIN/.$1.partial" "$3"
    mv "$BIN/.$1.partial" "$BIN/$1"
    took "$1"
}

build_api() {
    build etcd kubernetes_module go.etcd.io/etcd/server/v3
    build kube-apiserver kubernetes_module k8s.io/kubernetes/cmd/kube-apiserver
}
build_kubectl() { build kubectl kubernetes_module k8s.io/kubernetes/cmd/kubectl; }
build_node() {
    local c
    for c in kube-controller-manager kube-scheduler kubelet kube-proxy; do build "$c" kubernetes_module "k8s.io/kubernetes/cmd/$c"; done
    build coredns coredns_module .
}
# Not by `build`: `go install` of a version writes it into the binary, where `helm version` finds it.
build_helm() {
    [ ! -x "$BIN/helm" ] || return 0
    local place=$HAM4DB_TEST_DIR/src/helm-bin
    GOBIN=$place go install -trimpath -ldflags "-s -w" "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION"
    mv "$place/helm" "$BIN/helm"
    took helm
}

case $what in
    api|kubectl|helm|node) "build_$what" ;;
    all) build_api; build_node; build_helm ;;
    *) die "build-binaries.sh: no such part: $what" ;;
esac
