#!/usr/bin/env bash
# Writes the files that are made from others, and nothing else:
#   LICENSE                              -> charts/ham4db/LICENSE
#   crds/*.yaml                          -> charts/ham4db/files/, deploy/crds.yaml
#   charts/ham4db/files/alerts.yaml      -> deploy/prometheus/ham4db.rules.yaml
#   charts/ham4db/files/dashboard.json   -> deploy/grafana/ham4db.json
#   charts/ham4db                        -> deploy/install.yaml, deploy/examples/several-namespaces/install.yaml   (need helm)
#
#   render.sh              all of them
#   render.sh crds         the copies of the resource definition only (no helm)
#   render.sh --check      writes nothing; fails and says which one is stale
# `ham4db crd` makes the file in crds/ itself; `make crds` runs both.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
crd=mysqlclusters.ham4db.io.yaml
what=${1:-all}
[ -s "$root/crds/$crd" ] || { echo "crds/$crd is missing: make crds" >&2; exit 1; }
. "$root/tests/setup/tools.sh"
helm=$(find_tool helm || true)
[ "$what" = crds ] || [ -x "$helm" ] || { echo "no helm; tests/setup/ensure.sh helm builds one" >&2; exit 1; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/charts/ham4db/files "$work"/deploy/{prometheus,grafana,examples/several-namespaces}

cp "$root/LICENSE" "$work/charts/ham4db/LICENSE"
cp "$root/crds/$crd" "$work/charts/ham4db/files/$crd"
{
    echo "# Made by deploy/render.sh from crds/$crd. Apply it server-side, as an upgrade needs that too:"
    echo "#   kubectl apply --server-side --force-conflicts -f deploy/crds.yaml"
    cat "$root/crds/$crd"
} >"$work/deploy/crds.yaml"

{
    echo "# Made by deploy/render.sh from charts/ham4db/files/alerts.yaml: change it there."
    cat "$root/charts/ham4db/files/alerts.yaml"
} >"$work/deploy/prometheus/ham4db.rules.yaml"
cp "$root/charts/ham4db/files/dashboard.json" "$work/deploy/grafana/ham4db.json"

# plain FILE DESCRIPTION FLAGS... : the chart with these flags, as it is applied without helm. Its group key and token cannot be written down.
plain() {
    local file=$1 description=$2; shift 2
    {
        echo "# Made by deploy/render.sh from charts/ham4db $description. Read deploy/README.md first: it needs crds.yaml, and"
        cat <<'HEAD'
# two Secrets that cannot be written down here.
apiVersion: v1
kind: Namespace
metadata:
  name: ham4db
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
HEAD
        # Helm's own marks say that helm owns these objects, which is not so here.
        "$helm" template ham4db "$root/charts/ham4db" --namespace ham4db --kube-version 1.33.0 --skip-tests \
            --set crds.install=false --set groupKey.existingSecret=ham4db-group-key --set apiToken.existingSecret=ham4db-api-token "$@" |
            grep -v -e 'app.kubernetes.io/managed-by: Helm' -e 'helm.sh/chart:'
    } >"$work/deploy/$file"
}
if [ "$what" != crds ]; then
    plain install.yaml 'with its default values'
    plain examples/several-namespaces/install.yaml 'with watchNamespaces=[orders, billing]' --set 'watchNamespaces={orders,billing}'
fi

stale=0
while read -r file; do
    cmp -s "$work/$file" "$root/$file" && continue
    if [ "$what" = --check ]; then
        echo "$file is stale: run make crds" >&2
        { diff -u "$root/$file" "$work/$file" || true; } 2>&1 | head -20 >&2
        stale=1
    else
        mkdir -p "$(dirname "$root/$file")"
        cp "$work/$file" "$root/$file"
        echo "wrote $file"
    fi
done < <(cd "$work" && find . -type f | sed 's#^\./##' | sort)
exit "$stale"
