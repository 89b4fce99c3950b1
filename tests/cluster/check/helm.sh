#!/usr/bin/env bash
# helm on the running cluster: lint, install, test, upgrade, a failed upgrade, rollback, uninstall, with helm's own starter chart over
# a local image, plus a CRD in the chart.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../env.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/cluster}"
export KUBECONFIG=$RUN/kubeconfig
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/web"
printf 'FROM localhost/busybox:test\nRUN mkdir -p /www && echo hello >/www/index.html\nEXPOSE 80\nCMD ["httpd","-f","-p","80","-h","/www"]\n' >"$work/web/Dockerfile"
"$here/../bud.sh" -q -t localhost/web:test "$work/web" >/dev/null
"$here/../image-load.sh" localhost/web:test
cd "$work"
helm create demo >/dev/null
mkdir -p demo/crds && cp "$here/crd.yaml" demo/crds/
sed -i 's#image: busybox#image: localhost/busybox:test#' demo/templates/tests/test-connection.yaml    # the starter's own is docker.io's, latest
timed() { local t0; t0=$(date +%s%N); "${@:2}" >"$work/log" 2>&1 || { cat "$work/log"; die "$1 failed"; }; printf '%6d ms  %s\n' $(( ($(date +%s%N)-t0)/1000000 )) "$1"; }
refused() { ! "$@"; }
timed lint helm lint demo
timed install helm install demo demo -n hd --create-namespace --set image.repository=localhost/web,image.tag=test --wait --timeout 60s
timed test helm test demo -n hd
timed upgrade helm upgrade demo demo -n hd --reuse-values --set replicaCount=2 --wait --timeout 60s
timed 'upgrade to a missing image fails' refused helm upgrade demo demo -n hd --reuse-values --set image.tag=missing --wait --timeout 5s
timed rollback helm rollback demo 2 -n hd --wait --timeout 30s
timed uninstall helm uninstall demo -n hd --wait
kubectl get crd mysqlclusters.ham4db.io -o name      # stays: helm never removes a CRD of crds/
kubectl delete ns hd --wait=false >/dev/null
