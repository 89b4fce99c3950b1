# shellcheck shell=bash
# Sourced by nodes.sh. The chart as README has it, and from the version before this one to this one, back, and again.
# shellcheck disable=SC2317   # functions inside functions are called by check and within

# commands_of FILE HEADING : what stands there to be typed.
commands_of() { sed -n "/^## $2\$/,/^## /s/^    //p" "$root/$1"; }
shown() { [[ $(kubectl -n ham4db get mysqlclusters orders --no-headers) == orders* ]] && [ -n "$(condition orders Ready)" ]; }

# README's section on Kubernetes, command by command, in the folder of the sources. There is no registry: what is pushed is loaded.
readme_followed() {
    local commands=$work/readme.sh shims=$work/shims
    commands_of README.md 'In Kubernetes' >"$commands"
    mkdir "$shims"
    printf '#!/bin/sh\nset -e\n[ "$1" = push ]\nexec "%s/tests/cluster/image-load.sh" "$2"\n' "$root" >"$shims/docker"
    chmod +x "$shims/docker"
    follow() { (cd "$root" && PATH=$shims:$PATH BUILDER=buildah bash -euo pipefail "$commands"); }
    check "README's section on Kubernetes, word for word: $(grep -c . "$commands") lines" follow
    within 60 'three members are healthy' healthy 3
    within 20 'the resource is there, with a status' shown
    check 'helm test' helm test ham4db --namespace ham4db --timeout 60s
    check 'helm uninstall' helm uninstall ham4db --namespace ham4db --wait --timeout 60s
    check 'and all of it is removed' kubectl delete namespace/ham4db crd/mysqlclusters.ham4db.io --timeout=60s
}

# The plain install of deploy/README.md, command by command, and its removal.
plain_followed() {
    local commands=$work/plain.sh
    commands_of deploy/README.md 'Without Helm' | sed '/^#/,$d' >"$commands"
    buildah tag "$IMAGE" "docker.io/library/ham4db:$VERSION"
    "$root/tests/cluster/image-load.sh" "docker.io/library/ham4db:$VERSION"
    follow() { (cd "$root" && bash -euo pipefail "$commands"); }
    check "deploy/README.md's install without Helm, word for word: $(grep -c . "$commands") lines" follow
    within 60 'three members are healthy' healthy 3
    watched() { (cd "$root" && bash -euo pipefail <<<"$(commands_of deploy/README.md 'A cluster to watch' | head -n 2)"); }
    check 'a cluster to watch, as it says' watched
    within 20 'the resource is there, with a status' shown
    removed() { (cd "$root" && timeout 90 bash -euo pipefail <<<"$(commands_of deploy/README.md 'Removing')"); }
    check 'and all is removed as it says' removed
    check 'but for the definition' kubectl delete crd/mysqlclusters.ham4db.io --timeout=60s
}

# all_run VERSION : by their own word.
all_run() { local n; for n in 0 1 2; do [ "$(in_pod "ham4db-$n" ham4db --version)" = "ham4db $1" ] || return 1; done; }

upgraded() {
    record "upgrade$1"
    check "upgrade from $FORMER_VERSION to $VERSION" release --wait --timeout 150s "${new_values[@]}"
    within 60 'three members are healthy' members_are 3
    within 10 "all of them run $VERSION" all_run "$VERSION"
    recorded
}

rolled_back() {
    record rollback
    check "rollback to $FORMER_VERSION" helm rollback ham4db --namespace ham4db --wait --timeout 150s
    within 60 'three members are healthy' members_are 3
    within 10 "all of them run $FORMER_VERSION" all_run "$FORMER_VERSION"
    recorded
}
