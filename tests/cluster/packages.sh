#!/usr/bin/env bash
# Debian or Ubuntu packages that nodes and image builds need. Root. Starts no service (the scripts start what they need themselves).
# etcd-server is left out: build-binaries.sh builds a newer etcd. With Debian's: ETCD=/usr/bin/etcd.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; fi
apt-get update -q
apt-get install -y -q --no-install-recommends \
    containerd runc containernetworking-plugins iptables nftables conntrack iproute2 procps openssl busybox-static \
    buildah mmdebstrap gcc libc6-dev python3 wget
