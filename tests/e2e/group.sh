# shellcheck shell=bash
# Sourced. What the group in the namespace ham4db says, and what the API server says about it.

k() { kubectl -n ham4db "$@"; }
# get ADDRESS PATH : the body; fails unless the answer is 200.
get() { wget -q -O - -T 2 --tries=1 "http://$1:3000$2"; }
# change ADDRESS PATH : the same with the API's token.
change() { wget -q -O - -T 2 --tries=1 --header="Authorization: Bearer $(api_token)" "http://$1:3000$2"; }
# api_token : of the Secret that the chart made, or that it was given.
api_token() { k get secret "${API_SECRET:-ham4db-api-token}" -o jsonpath='{.data.token}' | base64 -d; }
# in_pod POD COMMAND... : as somebody with `kubectl exec`.
in_pod() { local pod=$1; shift; k exec "$pod" -c ham4db -- "$@"; }
pods() { k get pods -l app.kubernetes.io/name=ham4db -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}'; }
pod_ip() { k get pod "$1" -o jsonpath='{.status.podIP}'; }
service_ip() { k get service ham4db -o jsonpath='{.spec.clusterIP}'; }
# column NAME : what `kubectl get mysqlcluster orders` shows under that heading.
column() {
    k get mysqlcluster orders | awk -v name="$1" 'NR == 1 { at = match($0, "(^|  )" name "( |$)"); if (at > 1) at += 2 }
        NR == 2 && at { value = substr($0, at); sub(/ .*/, "", value); print value }'
}
primary_column_names() { [ "$(column PRIMARY)" = "$HOST_IP:$(port "$1")" ]; }
# of NAME PATH : a value of the resource.
of() { k get mysqlcluster "$1" -o jsonpath="{$2}"; }
status() { of orders ".status.$1"; }
# condition NAME TYPE : True, False or Unknown.
condition() { of "$1" ".status.conditions[?(@.type==\"$2\")].status"; }
# json EXPRESSION : Python on `v`, the JSON document read.
json() { python3 -c 'import json,sys; v=json.load(sys.stdin); sys.exit(0 if eval(sys.argv[1]) else 1)' "$1"; }
# leader EXCEPT : the pod other than EXCEPT that says it leads, if it is just one.
leader() {
    local name ip found=()
    while read -r name ip; do
        if [ "$name" != "$1" ] && [ -n "$ip" ] && get "$ip" /api/leader-check >/dev/null; then found+=("$name"); fi
    done < <(pods)
    [ ${#found[@]} = 1 ] && echo "${found[0]}"
}
# healthy N : so many pods say that their member is, no more and no fewer.
healthy() {
    local name ip count=0
    while read -r name ip; do [ "$(get "$ip" /api/raft-health)" = '"healthy"' ] && count=$((count + 1)); done < <(pods)
    [ "$count" = "$1" ]
}
# ready_endpoints N : so many members the client Service leads to.
ready_endpoints() { k get endpointslice -l kubernetes.io/service-name=ham4db -o json | json "sum(e['conditions']['ready'] for s in v['items'] for e in s.get('endpoints') or []) == $1"; }
# is NAME CONDITION VALUE
is() { [ "$(condition "$1" "$2")" = "$3" ]; }
all_instances() { k get mysqlcluster "$1" -o json | json "len(v['status']['instances']) == 3"; }
# The class of the local volumes that tests/cluster/check/pv.sh makes.
storage_class() {
    kubectl apply -f - <<YAML
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: manual, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
YAML
}
# outside SEED_PORT : the example for servers outside, with the accounts of servers.sh and one seed.
outside() {
    sed -e "s/password: change-me$/password: $topology_password/" -e "s/replicationPassword: .*/replicationPassword: $replication_password/" \
        -e "s/db1.example.com/$HOST_IP/; s/port: 3306/port: $1/" -e '/db2.example.com/,+1d' "$root/deploy/examples/servers-outside.yaml"
}
