#!/usr/bin/env bash
# A real kube-apiserver and etcd on loopback, no node: for tests of CRDs, server-side apply, status, watches, RBAC.
# Needs no root. Several can run side by side: give each its own RUN. Prints the kubeconfig's path.
#   ETCD=/usr/bin/etcd apiserver-up.sh      # Debian's etcd-server (3.4) instead of the one built here
#   CONTROLLERS=1 apiserver-up.sh           # also kube-controller-manager (and SCHEDULER=1 kube-scheduler)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"; . "$here/pki.sh"
: "${RUN:=$HAM4DB_TEST_DIR/run/api}" "${ETCD:=$(find_tool etcd)}" "${CONTROLLERS:=}" "${SCHEDULER:=}"
PKI=$RUN/pki
[ ! -f "$RUN/kube-apiserver.pid" ] || die "already up, or not taken down: $RUN"
mkdir -p "$RUN"
make_pki "IP:127.0.0.1,DNS:localhost"

client=$(free_port) peer=$(free_port) secure=$(free_port)
rm -rf "$RUN/etcd"
start etcd "$ETCD" --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level=warn --logger=zap \
    --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "default=http://127.0.0.1:$peer"

start kube-apiserver "$(find_tool kube-apiserver)" \
    --etcd-servers "http://127.0.0.1:$client" \
    --bind-address 127.0.0.1 --secure-port "$secure" --advertise-address 127.0.0.1 --endpoint-reconciler-type=none \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt" \
    --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 --allow-privileged \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file "$PKI/sa.key" --service-account-signing-key-file "$PKI/sa.key"

make_kubeconfig admin "https://127.0.0.1:$secure" "$RUN/kubeconfig"
export KUBECONFIG=$RUN/kubeconfig
wait_for 60 kubectl get --raw /readyz || { tail -n 5 "$RUN"/{etcd,kube-apiserver}.log >&2; RUN=$RUN "$here/apiserver-down.sh"; die "kube-apiserver is not ready"; }

# Controllers run as admin: this is a test machine, and it saves a dozen certificates.
[ -z "$CONTROLLERS" ] || start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$KUBECONFIG" \
    --leader-elect=false --secure-port=0 --use-service-account-credentials=false \
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt"
[ -z "$SCHEDULER" ] || start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$KUBECONFIG" --leader-elect=false --secure-port=0
echo "$KUBECONFIG"
