#!/usr/bin/env bash
# The whole end-to-end run: three real nodes, README's section on Kubernetes, then the image and the chart on them, MariaDB servers as pods,
# MySQL servers outside, and what happens to both: upgrade and rollback, failovers, takeovers by document, a lost node, drains, rollouts,
# scaling, lost volumes, a stopped API server. Root.
# Prints a line per check and "N passed, N failed". Needs the static binaries of target/release-static/ (make e2e builds them first).
#   KEEP_LOGS=DIR nodes.sh      leaves the members' and the servers' logs there
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/tests/cluster/env.sh"; . "$root/tests/cluster/net.sh"; . "$root/tests/e2e/checks.sh"
export RUN=$HAM4DB_TEST_DIR/run/cluster KUBECONFIG=$HAM4DB_TEST_DIR/run/cluster/kubeconfig CACHE=$HAM4DB_TEST_DIR NODES=3
: "${IMAGE:=localhost/ham4db:e2e}" "${KEEP_LOGS:=}"
. "$root/tests/e2e/servers.sh"; . "$root/tests/e2e/group.sh"; . "$root/tests/e2e/mariadb.sh"
. "$root/tests/e2e/nodes/servers.sh"; . "$root/tests/e2e/nodes/documents.sh"; . "$root/tests/e2e/nodes/group.sh"
. "$root/tests/e2e/former.sh"; . "$root/tests/e2e/nodes/upgrade.sh"
# A Secret of the test: its clients send the same token to both versions.
API_SECRET=e2e-api-token
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
[ "$(id -u)" = 0 ] || die "needs root: nodes are made of namespaces"
[ ! -e "/sys/class/net/$CLUSTER" ] || die "a cluster is up already; end it first: tests/cluster/cluster-down.sh"
"$root/tests/setup/ensure.sh" kube-node bases helm mysql mariadb
ensure_former
work=$(mktemp -d)
begun=$(now_ms)

finish() {
    local code=$1 name
    set +e
    trap - EXIT INT TERM
    stop_recording
    [ -z "${stopped_api:-}" ] || kill -CONT "$stopped_api"
    if [ -n "$KEEP_LOGS" ] || [ "$failed" != 0 ] || [ "${finished:-}" != yes ]; then
        mkdir -p "${KEEP_LOGS:=$HAM4DB_TEST_DIR/logs/e2e}"
        k get pods,mysqlclusters,events,pvc -o wide >"$KEEP_LOGS/objects" 2>&1
        k get mysqlcluster -o yaml >"$KEEP_LOGS/clusters.yaml" 2>&1
        for name in $(k get pods -o name); do
            k logs "$name" >"$KEEP_LOGS/${name#pod/}.log" 2>&1
            k logs --previous "$name" >"$KEEP_LOGS/${name#pod/}-before.log" 2>/dev/null || rm -f "$KEEP_LOGS/${name#pod/}-before.log"
        done
        for n in 1 2 3; do cp "$SERVERS/$n/log" "$KEEP_LOGS/mysql-$n.log" 2>/dev/null; done
        cp "$work"/*.log "$work"/requests-* "$KEEP_LOGS/" 2>/dev/null
        say "logs are in $KEEP_LOGS"
    fi
    stop_servers
    "$root/tests/cluster/cluster-down.sh"
    rm -rf "$work"
    say "$(( ($(now_ms) - begun) / 1000 )) s in all"
    closing "$code"
}
trap 'finish $?' EXIT
trap 'exit 130' INT TERM

# --- images, nodes, servers, the group ------------------------------------------------------------------------------------------
BUILDER=buildah IMAGE=$IMAGE check 'the image is built, of at most 50 MB' "$root/tests/e2e/image.sh"
former_image=${IMAGE%:*}:$FORMER_VERSION
BUILDER=buildah IMAGE=$former_image check "the image of $FORMER_VERSION is built" "$former/tests/e2e/image.sh"
check 'an image of MariaDB is built' build_mariadb_image
[ "$failed" = 0 ] || exit 1
"$root/tests/cluster/cluster-up.sh" >/dev/null
good 'a real cluster of three nodes is up'
"$root/tests/cluster/image-load.sh" "$IMAGE" "$former_image" "$MARIADB_IMAGE"
storage_class >/dev/null
for n in 1 2 3; do COUNT=8 DIR=$RUN/volumes NODE=node$n "$root/tests/cluster/check/pv.sh" >/dev/null; done
readme_followed
plain_followed
[ "$failed" = 0 ] || exit 1
set_up_servers
good 'three MySQL servers run outside the cluster, with semi-sync'
kubectl create namespace ham4db >/dev/null
kubectl label namespace ham4db pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null
release() { helm upgrade ham4db "$root/charts/ham4db" --namespace ham4db --reset-then-reuse-values --timeout 150s "$@"; }
install() {
    helm install ham4db "$former/charts/ham4db" --namespace ham4db --timeout 150s --wait --set image.pullPolicy=Never \
        --set "image.repository=${former_image%:*},image.tag=$FORMER_VERSION,persistence.storageClass=manual" \
        --set 'credentialSecrets={mysql-topology,shop}' --set "apiToken.existingSecret=$API_SECRET"
}
new_values=(--set "image.repository=${IMAGE%:*},image.tag=${IMAGE##*:},drain.enabled=true,podRoleLabels.enabled=true"
    --set "apiToken.existingSecret=$API_SECRET")
k create secret generic "$API_SECRET" --from-literal="token=token-$RANDOM$RANDOM$RANDOM" >/dev/null
check "helm install of $FORMER_VERSION, and all is ready" install
[ "$failed" = 0 ] || exit 1
within 10 'three members say healthy by raft-health' healthy 3
on_nodes() { [ "$(k get pods -l app.kubernetes.io/name=ham4db -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)" = 3 ]; }
check 'each on a node of its own' on_nodes
check 'the MariaDB servers and their resource are applied' start_shop
outside "$(port 2)" | sed 's/^    mode: Auto$/&\n    oldPrimary: Rejoin\n    blockFor: 1s/; s/^  credentialsSecretRef:$/  durability: {mode: SemiSync, count: 1}\n&/' >"$work/orders.yaml"
check 'the example for servers outside is applied' k apply --server-side -f "$work/orders.yaml"
within 60 'the resource of the MySQL servers is Ready' is orders Ready True
within 120 'the resource of the pods is Ready: one primary, two replicas' shop_whole
within 30 'semi-sync is switched on, as its durability asks' shop_is "$(shop_primary)" 'SELECT @@rpl_semi_sync_master_enabled' 1
within 10 'the Service of the primary leads to it' leads_to shop-primary "shop-$(shop_primary) 0"
replica_answers() { [[ $(through shop-replicas "SELECT CONCAT(@@hostname, ' ', @@read_only + 0)") =~ ^shop-[0-2]\ 1$ ]]; }
within 10 'and that of the replicas to one of them' replica_answers

upgraded ''; server_killed; rolled_back; server_killed; upgraded -again

pod_killed; process_killed; primary_drained; server_killed
taken_over_once; not_taken_over; downtime_of_two
leader_killed; all_moved; rolled_out; drained; scaled; volume_lost; quorum_lost
api_stopped; node_vanished

# --- the end --------------------------------------------------------------------------------------------------------------------
check 'helm test' helm test ham4db --namespace ham4db --timeout 60s
no_password() {
    local name
    for name in $(pods | cut -d' ' -f1); do k logs "$name" >"$work/$name.log" && [ -s "$work/$name.log" ] || return 1; done
    ! grep -F -e "$topology_password" -e "$replication_password" -e "$(api_token)" "$work"/ham4db-*.log
}
check 'no password is in any log' no_password
check 'helm uninstall' helm uninstall ham4db --namespace ham4db --wait --timeout 60s
check 'the MySQLClusters are still there' k get mysqlcluster orders shop
now=$(orders_writable)
check 'and one of the servers outside takes writes' test -n "$now"
without_volumes
finished=yes
