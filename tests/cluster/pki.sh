# shellcheck shell=bash
# Sourced. Makes a CA, one serving certificate, and one client certificate per person, all EC keys, in $PKI.
# make_pki "IP:127.0.0.1,DNS:localhost,..."
make_pki() {
    mkdir -p "$PKI"
    [ -f "$PKI/ca.crt" ] && return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ham4db-test-ca \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature \
        -keyout "$PKI/ca.key" -out "$PKI/ca.crt" 2>/dev/null
    make_cert apiserver /CN=kube-apiserver serverAuth "$1"
    make_cert admin /O=system:masters/CN=admin clientAuth
    openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null      # signs service account tokens
}

# make_cert NAME SUBJECT USAGE [SAN]
make_cert() {
    local ext="extendedKeyUsage=$3"
    [ -n "${4:-}" ] && ext="$ext"$'\n'"subjectAltName=$4"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$PKI/$1.key" -out "$PKI/$1.csr" 2>/dev/null
    openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 \
        -extfile <(printf '%s\n' "$ext") -out "$PKI/$1.crt" 2>/dev/null
}

# make_kubeconfig NAME SERVER FILE
make_kubeconfig() {
    cat >"$3" <<EOT
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "$2", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}]
users: [{name: test, user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
EOT
    chmod 600 "$3"
}
