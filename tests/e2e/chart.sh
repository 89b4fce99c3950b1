#!/usr/bin/env bash
# The chart and the plain manifests, without a node: helm's own lint, what each value changes (values.txt), alerts and dashboard,
# whether the rendered files are current, and all of it before a real API server (started here, about 5 s) in a namespace with Pod
# Security "restricted".
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/tests/cluster/env.sh"; . "$root/tests/e2e/checks.sh"
"$root/tests/setup/ensure.sh" kube-api kubectl helm promtool
chart=$root/charts/ham4db
export RUN=$HAM4DB_TEST_DIR/run/chart-$$
work=$(mktemp -d)
trap 'code=$?; "$root/tests/cluster/apiserver-down.sh"; rm -rf "$work"; closing "$code"' EXIT
render() { helm template ham4db "$chart" --namespace ham4db --kube-version 1.33.0 "$@"; }
# objects FILE EXPRESSION : Python on the list of objects `o`; `the(kind, name)` is one of them.
objects() {
    python3 - "$1" "$2" <<'PY'
import json, subprocess, sys
text = subprocess.run(["kubectl", "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", sys.argv[1]],
                      check=True, capture_output=True, text=True).stdout
decoder, o, at = json.JSONDecoder(), [], 0
while text[at:].strip():
    at += len(text[at:]) - len(text[at:].lstrip())
    value, at = decoder.raw_decode(text, at)
    o += value["items"] if value["kind"] == "List" else [value]
def the(kind, name): return next(x for x in o if x["kind"] == kind and x["metadata"]["name"] == name)
def kinds(kind): return [x["metadata"]["name"] for x in o if x["kind"] == kind]
def config(): return json.loads(the("ConfigMap", "ham4db")["data"]["ham4db.conf.json"])
def pod(): return the("StatefulSet", "ham4db")["spec"]["template"]
sys.exit(0 if eval(sys.argv[2]) else 1)
PY
}
# renders NAME EXPRESSION [helm flags...] : the chart rendered with these flags satisfies the expression.
renders() {
    local name=$1 expression=$2; shift 2
    rendered_so() { render "$@" >"$work/rendered.yaml" && objects "$work/rendered.yaml" "$expression"; }
    check "$name" rendered_so "$@"
}
# refuses NAME TEXT [helm flags...] : helm does not render it, and says TEXT.
refuses() {
    local name=$1 text=$2; shift 2
    refused_so() { ! render "$@" >/dev/null 2>"$work/refusal" && grep -qF "$text" "$work/refusal"; }
    check "$name" refused_so "$@"
}

"$root/tests/cluster/apiserver-up.sh" >/dev/null
export KUBECONFIG=$RUN/kubeconfig

kubectl apply -f "$root/tests/e2e/monitoring-crds.yaml" >/dev/null

check 'helm lint --strict' helm lint --strict --quiet "$chart"
for values in "$chart"/ci/*.yaml; do
    check "helm lint --strict with $(basename "$values")" helm lint --strict --quiet "$chart" -f "$values"
done
check 'deploy/install.yaml, deploy/crds.yaml and the copy in the chart are current' "$root/deploy/render.sh" --check

values() { "$root/tests/e2e/values.py" "$1"; }
check 'every value is documented with its default' values documented
check 'the schema has every value, and refuses wrong types and unknown keys' values schema
check 'every value has the effect that values.txt says' values effects

# Alerts and dashboard.
check 'metrics, findings, commands and anchors of alerts and dashboard exist, and none is forgotten' "$root/tests/e2e/alerts.py" check
alerts_fire() { sed "s#ALERTS\]#$chart/files/alerts.yaml]#" "$root/tests/e2e/alerts.yaml" >"$work/alerts.yaml" && promtool test rules "$work/alerts.yaml"; }
check 'each alert fires on its series, and none on a healthy group' alerts_fire
check 'the scrape configuration for machines is one, with its rules' promtool check config "$root/deploy/prometheus/scrape.yaml"
queries_parse() { "$root/tests/e2e/alerts.py" queries >"$work/queries.yaml" && promtool check rules "$work/queries.yaml"; }
check 'the queries of the dashboard parse' queries_parse
one_version() {
    local version; version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
    grep -qxF "appVersion: \"$version\"" "$chart/Chart.yaml" && grep -qxF "ARG VERSION=$version" "$root/Dockerfile" &&
        grep -qF "ham4db:$version" "$root/deploy/README.md"
}
check 'Cargo.toml, chart, Dockerfile and deploy/README.md have one version' one_version

renders 'three members start together, each with a volume' \
    'the("StatefulSet","ham4db")["spec"]["replicas"] == 3 and the("StatefulSet","ham4db")["spec"]["podManagementPolicy"] == "Parallel" and len(the("StatefulSet","ham4db")["spec"]["volumeClaimTemplates"]) == 1'
renders 'the peers service is the one of the StatefulSet and names members that are not ready' \
    'the("StatefulSet","ham4db")["spec"]["serviceName"] == "ham4db-peers" and the("Service","ham4db-peers")["spec"]["publishNotReadyAddresses"] and the("Service","ham4db-peers")["spec"]["clusterIP"] == "None"'
renders 'the client service leads to ready members only' '"publishNotReadyAddresses" not in the("Service","ham4db")["spec"]'
renders 'readiness is raft-health, liveness and startup are local' \
    '[pod()["spec"]["containers"][0][p]["httpGet"]["path"] for p in ("readinessProbe","livenessProbe","startupProbe")] == ["/api/raft-health","/api/live","/api/live"]'
renders 'the disruption budget is one, and says what it does with unready pods' \
    'the("PodDisruptionBudget","ham4db")["spec"]["maxUnavailable"] == 1 and the("PodDisruptionBudget","ham4db")["spec"]["unhealthyPodEvictionPolicy"] == "IfHealthyBudget"'
renders 'one member: raft as well, and no budget that would block its node' 'config()["RaftEnabled"] and not kinds("PodDisruptionBudget")' --set replicas=1
renders 'members reach both ports of each other, the test pod and the namespace the API, nobody else anything of them' \
    '[([sorted(f["podSelector"].get("matchLabels",{}).items()) for f in r["from"]], [p["port"] for p in r["ports"]]) for r in the("NetworkPolicy","ham4db")["spec"]["ingress"] if "from" in r] == [([[("app.kubernetes.io/instance","ham4db"),("app.kubernetes.io/name","ham4db")]],[10008,3000]), ([[("app.kubernetes.io/instance","ham4db"),("app.kubernetes.io/name","ham4db-test")],[]],[3000])]'
renders 'everybody the port for health and metrics, and no other' \
    '[[p["port"] for p in r["ports"]] for r in the("NetworkPolicy","ham4db")["spec"]["ingress"] if "from" not in r] == [[3001]]'
renders 'or those who are named' \
    '[r["from"] for r in the("NetworkPolicy","ham4db")["spec"]["ingress"] if r["ports"] == [{"protocol": "TCP", "port": 3001}]] == [[{"podSelector": {"matchLabels": {"scrapes": "yes"}}}]]' --set 'networkPolicy.healthFrom[0].podSelector.matchLabels.scrapes=yes'
renders 'members and the test pod are let in whoever else is' \
    '[r["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for r in the("NetworkPolicy","ham4db")["spec"]["ingress"] if "from" in r] == ["ham4db","ham4db-test"] and len(the("NetworkPolicy","ham4db")["spec"]["ingress"][1]["from"]) == 1' --set networkPolicy.apiFrom=null
renders 'limited connections: still to the members and to DNS' \
    '[[p["port"] for p in r.get("ports",[])] for r in the("NetworkPolicy","ham4db")["spec"]["egress"]] == [[10008,3000],[53,53],[]]' --set 'networkPolicy.egress[0].to[0].ipBlock.cidr=10.0.0.0/8'
renders 'Prometheus finds the peers Service, and not both' \
    '[s["metadata"]["name"] for s in o if s["kind"] == "Service" and the("ServiceMonitor","ham4db")["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()] == ["ham4db-peers"]' --set metrics.serviceMonitor.enabled=true
renders 'probes and scrapes have a port of their own' \
    '{pod()["spec"]["containers"][0][p]["httpGet"]["port"] for p in ("readinessProbe","livenessProbe","startupProbe")} == {"health"} and [e["port"] for e in the("ServiceMonitor","ham4db")["spec"]["endpoints"]] == ["health"] and config()["HealthListenAddress"] == ":3001" and {"name": "health", "containerPort": 3001} in pod()["spec"]["containers"][0]["ports"] and [p["port"] for p in the("Service","ham4db-peers")["spec"]["ports"]] == [10008,3000,3001] and [p["port"] for p in the("Service","ham4db")["spec"]["ports"]] == [3000]' --set metrics.serviceMonitor.enabled=true
renders 'without it they use that of the API' \
    '{pod()["spec"]["containers"][0][p]["httpGet"]["port"] for p in ("readinessProbe","livenessProbe","startupProbe")} == {"http"} and [e["port"] for e in the("ServiceMonitor","ham4db")["spec"]["endpoints"]] == ["http"] and "HealthListenAddress" not in config() and not [r for r in the("NetworkPolicy","ham4db")["spec"]["ingress"] if "from" not in r] and len(the("Service","ham4db-peers")["spec"]["ports"]) == 2 and len(pod()["spec"]["containers"][0]["ports"]) == 2' --set metrics.serviceMonitor.enabled=true --set health.port=0
refuses 'the port of the API is not that for health' 'health.port: 3000 is taken' --set health.port=3000
renders 'changes by the API need a token, which the pods have in the file that configuration and client name' \
    '[s["secret"]["items"] for v in pod()["spec"]["volumes"] if v["name"] == "config" for s in v["projected"]["sources"] if s.get("secret",{}).get("name") == "ham4db-api-token"] == [[{"key": "token", "path": "api-token"}]] and {e["value"] for e in pod()["spec"]["containers"][0]["env"] if e["name"] == "HAM4DB_API_TOKEN_FILE"} == {config()["APIWriteTokenFile"]} == {"/etc/ham4db/api-token"} and [m["mountPath"] for m in pod()["spec"]["containers"][0]["volumeMounts"] if m["name"] == "config"] == ["/etc/ham4db"]'
renders 'a token of the user'"'"'s own: none is generated' 'kinds("Secret") == ["ham4db-group-key"]' --set apiToken.existingSecret=mine
renders 'no token wanted: none of it' \
    'kinds("Secret") == ["ham4db-group-key"] and "APIWriteTokenFile" not in config() and "api-token" not in json.dumps(the("StatefulSet","ham4db"))' --set apiToken.enabled=false
refuses 'a token file in config is refused' 'config.APIWriteTokenFile: Services' --set config.APIWriteTokenFile=/x
renders 'the rules of the release are the rules of the file' \
    'len(the("PrometheusRule","ham4db")["spec"]["groups"][0]["rules"]) == open("'"$chart"'/files/alerts.yaml").read().count("- alert:")' --set metrics.prometheusRule.enabled=true
renders 'nothing of Prometheus Operator unless asked for' 'not [x for x in o if "monitoring" in x["apiVersion"]] and kinds("ConfigMap") == ["ham4db"]'
refuses 'an address of the members in config is refused' 'config.listenAddress: Services' --set config.listenAddress=:80
refuses 'a password in config is refused' 'config.MySQLTopologyPassword: it would be readable' --set config.MySQLTopologyPassword=x
renders 'one from the environment is not' 'config()["MySQLTopologyPassword"] == "${PASSWORD}"' --set-string 'config.MySQLTopologyPassword=${PASSWORD}'
renders 'a key of the chart in another case comes out once' \
    '[k for k in config() if k.lower() == "memberdatacenter"] == ["memberDataCenter"]' --set config.memberDataCenter=a
renders 'config goes over the keys of the chart' 'config()["RecoveryPeriodBlockSeconds"] == 600 and config()["RaftEnabled"]' --set config.RecoveryPeriodBlockSeconds=600
renders 'no volumes: an emptyDir in their place' \
    '"volumeClaimTemplates" not in the("StatefulSet","ham4db")["spec"] and [v for v in pod()["spec"]["volumes"] if v["name"] == "data" and "emptyDir" in v]' --set persistence.enabled=false
refuses 'no volumes with fewer than three members is refused' 'needs replicas >= 3' --set persistence.enabled=false --set replicas=1
refuses 'a value that does not exist is refused' 'replicaCount' --set replicaCount=5
renders 'the controller may read the named Secrets only' \
    '[r["resourceNames"] for r in the("Role","ham4db-controller")["rules"] if "secrets" in r["resources"]] == [["a","b"]]' --set 'credentialSecrets={a,b}'
renders 'no Secrets named: none readable' 'not [r for x in o if "Role" in x["kind"] for r in x.get("rules",[]) if "secrets" in r["resources"]]' --set credentialSecrets=null
renders 'Services and slices may be made in watched namespaces, and only there' \
    '[(x["metadata"]["name"], sorted(r["verbs"])) for x in o if "Role" in x["kind"] for r in x.get("rules",[]) if set(r["resources"]) & {"services","endpointslices"}] == [("ham4db-controller", ["create","delete","get","list","patch"])] * 2'
renders 'nothing about pods and nodes unless asked for' \
    'not [r for x in o if "Role" in x["kind"] for r in x.get("rules",[]) if set(r["resources"]) & {"pods","nodes"}] and not config()["Kubernetes"]["Drain"]'
rules='sorted((x["kind"], r["resources"], r["verbs"]) for x in o if "Role" in x["kind"] for r in x.get("rules",[]) if set(r["resources"]) & {"pods","nodes"})'
renders 'drains: nodes of the cluster and pods of watched namespaces are read' \
    "$rules"' == [("ClusterRole",["nodes"],["get","list","watch"])] + [("Role",["pods"],["get","list","watch"])] * 2 and config()["Kubernetes"]["Drain"]' \
    --set drain.enabled=true --set 'watchNamespaces={orders,billing}'
renders 'labels: pods may be patched where they are watched, and nodes are not read' \
    "$rules"' == [("Role",["pods"],["get","list","watch","patch"])] and config()["Kubernetes"]["PodRoleLabels"]' --set podRoleLabels.enabled=true
renders 'namespaces named: a Role in each, no ClusterRole' \
    '[x["metadata"]["namespace"] for x in o if x["kind"] == "Role" and x["metadata"]["name"] == "ham4db-controller"] == ["orders","billing"] and not kinds("ClusterRole")' --set 'watchNamespaces={orders,billing}'
renders 'all namespaces: a ClusterRole, still with named Secrets only' \
    'kinds("ClusterRole") == ["ham4db-ham4db-controller"] and all("resourceNames" in r for x in o if x["kind"] == "ClusterRole" for r in x["rules"] if "secrets" in r["resources"])' --set 'watchNamespaces={*}'
renders 'no controller: no permission on MySQLClusters' 'not [r for x in o if "Role" in x["kind"] for r in x.get("rules",[]) if "mysqlclusters" in r["resources"]] and not config()["Kubernetes"]["Enabled"]' --set controller.enabled=false
renders 'a group key of the user'"'"'s own: none is generated' 'kinds("Secret") == ["ham4db-api-token"]' --set groupKey.existingSecret=mine
renders 'the definition survives the release' 'the("CustomResourceDefinition","mysqlclusters.ham4db.io")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"'
checksum() { render "$@" | sed -n 's/ *checksum\/config: //p'; }
differ() { [ "$1" != "$2" ]; }
check 'a change of config rolls the members' differ "$(checksum)" "$(checksum --set config.Debug=true)"
check 'a change of replicas does not' test "$(checksum)" = "$(checksum --set replicas=5)"

# Before the real API server.
kubectl create namespace ham4db >/dev/null
kubectl -n ham4db create serviceaccount default >/dev/null       # a controller's work, and none runs here
kubectl label namespace ham4db pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null
kubectl create namespace orders >/dev/null; kubectl create namespace billing >/dev/null
accepted() { kubectl apply --server-side --dry-run=server -f "$1" >"$work/answer" 2>&1 && ! grep -q Warning "$work/answer" || { cat "$work/answer"; false; }; }
all_accepted() { render "$@" >"$work/accepted.yaml" && accepted "$work/accepted.yaml"; }
check 'the API server takes the chart, without a warning' all_accepted
for values in "$chart"/ci/*.yaml; do
    check "the API server takes it with $(basename "$values"), without a warning" all_accepted -f "$values"
done
plain() { sed -n '/^kind: Namespace/,/^---/!p' "$root/deploy/install.yaml" >"$work/plain.yaml" && accepted "$work/plain.yaml"; }
check 'the API server takes deploy/install.yaml, without a warning' plain
check 'the API server takes deploy/crds.yaml, without a warning' kubectl apply --server-side -f "$root/deploy/crds.yaml"
check 'the definition is established' kubectl wait --for=condition=Established crd/mysqlclusters.ham4db.io --timeout=10s
check 'and takes deploy/examples/servers-outside.yaml' kubectl -n ham4db apply --server-side --dry-run=server -f "$root/deploy/examples/servers-outside.yaml"
check 'and takes those of deploy/examples/several-namespaces' kubectl apply --server-side --dry-run=server -f "$root/deploy/examples/several-namespaces/clusters.yaml"
several() { sed -n '/^kind: Namespace/,/^---/!p' "$root/deploy/examples/several-namespaces/install.yaml" >"$work/several.yaml" && accepted "$work/several.yaml"; }
check 'the API server takes its install.yaml, without a warning' several
check 'it takes deploy/examples/servers-in-pods.yaml' kubectl -n orders apply --server-side --dry-run=server -f "$root/deploy/examples/servers-in-pods.yaml"
check 'kustomize builds deploy/' kubectl kustomize "$root/deploy"

# The pods as the StatefulSet would make them, which is where "restricted" is enforced.
# pod_allowed FILE : the pod of the StatefulSet in this file.
pod_allowed() {
    python3 - "$1" >"$work/pod.json" <<'PY'
import json, subprocess, sys
text = subprocess.run(["kubectl", "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", sys.argv[1]], check=True, capture_output=True, text=True).stdout
decoder, at = json.JSONDecoder(), 0
while text[at:].strip():
    at += len(text[at:]) - len(text[at:].lstrip())
    x, at = decoder.raw_decode(text, at)
    if x["kind"] == "StatefulSet":
        t = x["spec"]["template"]
        t["metadata"]["name"] = "pod-0"
        t["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
        t["spec"]["serviceAccountName"] = "default"
        print(json.dumps({"apiVersion": "v1", "kind": "Pod", **t}))
PY
    [ -s "$work/pod.json" ] && kubectl -n ham4db apply --dry-run=server -f "$work/pod.json"
}
render >"$work/rendered.yaml"
check 'Pod Security "restricted" lets the pods in' pod_allowed "$work/rendered.yaml"
check 'and those of deploy/examples/servers-in-pods.yaml' pod_allowed "$root/deploy/examples/servers-in-pods.yaml"

# Permissions, asked as the ServiceAccount.
kubectl -n ham4db apply --server-side --force-conflicts -f "$work/plain.yaml" >/dev/null
kubectl -n ham4db create secret generic mysql-topology --from-literal=user=u >/dev/null
kubectl -n ham4db create secret generic other --from-literal=user=u >/dev/null
token=$(kubectl -n ham4db create token ham4db)
sed 's/client-certificate-data: [^,]*, client-key-data: [^}]*/token: '"$token"'/' "$KUBECONFIG" >"$work/member"
as_member() { kubectl --kubeconfig "$work/member" -n ham4db "$@"; }
may_not() { ! as_member "$@" 2>"$work/forbidden" && grep -q Forbidden "$work/forbidden"; }
one() { as_member get --raw "/api/v1/namespaces/ham4db/secrets?fieldSelector=metadata.name%3D$1"; }
not_one() { ! one "$1" 2>"$work/forbidden" && grep -qi forbidden "$work/forbidden"; }
check 'a member lists MySQLClusters' as_member get mysqlclusters
check 'a member reads the named Secret' as_member get secret mysql-topology
check 'a member lists, and so watches, just that Secret by its name' one mysql-topology
check 'a member reads no other Secret' may_not get secret other
check 'a member reads no other Secret by listing its name' not_one other
check 'a member does not list Secrets' may_not get secrets
check 'a member does not read the group key over the API' may_not get secret ham4db-group-key
check 'nor the token' may_not get secret ham4db-api-token
check 'a member writes the bootstrap marker once' as_member create configmap ham4db-bootstrap --from-literal=identity=x
check 'a member reads the marker' as_member get configmap ham4db-bootstrap
check 'a member does not delete the marker' may_not delete configmap ham4db-bootstrap
check 'a member reads no other ConfigMap' may_not get configmap ham4db
check 'a member makes, lists and deletes Services' eval 'as_member create service clusterip made --tcp=3306:3306 && as_member get services && as_member delete service made'
check 'a member sees no Services elsewhere' may_not get services -n orders
check 'a member lists EndpointSlices' as_member get endpointslices
check 'a member sees no pods' may_not get pods
check 'a member sees no nodes' may_not get nodes
check 'a member reads its StatefulSet' as_member get statefulset ham4db
check 'a member does not change it' may_not scale statefulset ham4db --replicas=1
check 'a member does not write the spec of a MySQLCluster' may_not create -f "$root/deploy/examples/servers-outside.yaml"
check 'a member sees nothing of another namespace' may_not get mysqlclusters -n orders
render --set drain.enabled=true --show-only templates/rbac-controller.yaml | kubectl apply -f - >/dev/null
check 'with drain.enabled a member lists nodes and pods' eval 'as_member get nodes && as_member get pods'
check 'and changes neither' eval '! as_member auth can-i patch pods && ! as_member auth can-i patch nodes && ! as_member auth can-i create pods/eviction'
check 'and sees no pods of another namespace' may_not get pods -n orders
render --set podRoleLabels.enabled=true --show-only templates/rbac-controller.yaml | kubectl apply -f - >/dev/null
check 'with podRoleLabels.enabled a member patches pods, and does not delete or make any' \
    eval 'as_member auth can-i patch pods && ! as_member auth can-i delete pods && ! as_member auth can-i create pods'

# What `lookup` decides, which needs installs: without controllers nothing starts, and helm need not wait.
helm_install() { helm upgrade --install "$1" "$chart" --namespace "$2" --timeout 30s "${@:3}"; }
kubectl create namespace first >/dev/null; kubectl create namespace second >/dev/null
manager() { kubectl get crd mysqlclusters.ham4db.io -o jsonpath='{.metadata.annotations.meta\.helm\.sh/release-name}'; }
key() { kubectl -n "$1" get secret ham4db-group-key -o jsonpath='{.data.key}'; }
api_token() { kubectl -n "$1" get secret ham4db-api-token -o jsonpath='{.data.token}'; }
check 'helm installs beside a definition that kubectl applied' helm_install ham4db first
check 'and leaves that definition alone' test -z "$(manager)"
notes() { helm install notes "$chart" --namespace first --dry-run=server "$@" 2>&1 | sed '1,/^NOTES:/d'; }
# noted NAME TEXT [helm flags...] : what helm prints after an installation says TEXT.
noted() {
    local name=$1 text=$2; shift 2
    said_so() { notes "$@" >"$work/notes" && grep -qF "$text" "$work/notes"; }
    check "$name" said_so "$@"
}
noted 'helm says that the definition was left alone' 'and was left as it is'
noted 'helm says which namespaces are watched' 'in these namespaces: orders, billing.' --set 'watchNamespaces={orders,billing}'
noted 'helm says how to come by the token' "get secret notes-ham4db-api-token -o jsonpath='{.data.token}'"
noted 'helm warns of an open API' 'can ask for a failover' --set networkPolicy.enabled=false,apiToken.enabled=false
noted 'and not of one that wants a token' 'can read what they know' --set networkPolicy.enabled=false
noted 'helm says who reaches a LoadBalancer' 'no client through the LoadBalancer from outside' --set service.type=LoadBalancer
noted 'helm says who reaches /metrics' 'Prometheus reaches /metrics from this namespace only' --set metrics.serviceMonitor.enabled=true,health.port=0
noted 'helm warns of a single member' 'WARNING: a single member' --set replicas=1
noted 'helm warns of an even number' 'survive no more losses than 3' --set replicas=4
noted 'helm warns of members without volumes' 'WARNING: no volumes' --set persistence.enabled=false
noted 'helm warns when no Secret may be read' 'credentialSecrets is empty' --set credentialSecrets=null
quiet() { notes >"$work/notes" && ! grep -q WARNING "$work/notes"; }
check 'helm warns of nothing by default' quiet
kubectl delete crd mysqlclusters.ham4db.io >/dev/null
before=$(key first) token_before=$(api_token first)
check 'an upgrade makes a definition where there is none' helm_install ham4db first
check 'and then it is the release'"'"'s' test "$(manager)" = ham4db
check 'the group key is kept over an upgrade' test "$(key first)" = "$before"
check 'and so is the token' test "$(api_token first)" = "$token_before" -a -n "$token_before"
check 'a second release installs beside the first' helm_install ham4db second
check 'and has a group key of its own' differ "$(key second)" "$before"
check 'and a token of its own' differ "$(api_token second)" "$token_before"
check 'uninstalling keeps the definition' sh -c 'helm uninstall ham4db -n first && kubectl get crd mysqlclusters.ham4db.io'
check 'installing under another name then works' helm_install other first
finished=yes
