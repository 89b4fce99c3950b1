# shellcheck shell=bash
# Sourced. Debian and Ubuntu packages: unpacked into a folder from a private apt state (needs no root, touches nothing of the
# machine), or, for a few common tools, installed on the machine.

. /etc/os-release
codename=${VERSION_CODENAME:-}
deb_arch=$(dpkg --print-architecture)
case $deb_arch in
    amd64) multiarch=x86_64-linux-gnu ;;
    arm64) multiarch=aarch64-linux-gnu ;;
    *) die "this machine is $deb_arch; the database servers of the tests are set up on amd64 and arm64 only" ;;
esac

# The archive's address as this machine's own apt has it, whatever the format of its source files. apt prints it without asking the
# network when its lists are empty: one line "URI/dists/SUITE/InRelease" for each source.
machine_mirror() {
    local lists address suite plain=''
    lists=$(mktemp -d)
    while IFS= read -r address; do
        suite=${address#*/dists/} suite=${suite%/InRelease}
        case $suite in
            */*|*-updates|*-security|*-backports|*-proposed) ;;
            "$codename"|stable|testing|unstable|sid) plain=${plain:-${address%%/dists/*}} ;;
        esac
    done < <(apt-get -o Dir::State::Lists="$lists" update --print-uris 2>/dev/null | sed -n "s/^'\([^']*\/InRelease\)'.*/\1/p")
    rm -rf "$lists"
    [ -n "$plain" ] || die "no apt source for '$codename' on this machine: look at /etc/apt/sources.list and /etc/apt/sources.list.d"
    echo "${plain%/}"
}

# private_apt FOLDER SUITE COMPONENTS : an apt that knows only this suite, has nothing installed, and keeps its state in FOLDER.
private_apt() {
    local mirror keyring
    mirror=$(machine_mirror)
    case ${ID:-} in
        debian) keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;;
        ubuntu) keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
        *) die "this is ${PRETTY_NAME:-an unknown system}; set-up knows Debian and Ubuntu. Name a server of your own by HAM4DB_TEST_MYSQLD" ;;
    esac
    [ -f "$keyring" ] || die "$keyring is missing: install ${ID}-archive-keyring"
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    : >"$1/status"
    echo "deb [signed-by=$keyring] $mirror $2 $3" >"$1/sources.list"
    apt_options=(-q -o Dir::State::Lists="$1/lists" -o Dir::Cache="$1/cache" -o Dir::State::status="$1/status"
        -o Dir::State::extended_states="$1/extended_states" -o Dir::Etc::SourceList="$1/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Dir::Log="$1"
        -o APT::Architectures="$deb_arch" -o APT::Sandbox::User=root -o APT::Install-Recommends=false
        -o APT::Update::Error-Mode=any -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false -o Acquire::Retries=3)
    say "package lists of $mirror $2"
    quietly apt-get "${apt_options[@]}" update
}

# unpack_packages STATE ROOT PACKAGE... : the packages and all they depend on, out of private_apt's suite, into the folder ROOT.
# perl and gcc's base packages are only named by maintainer scripts, which do not run here.
unpack_packages() {
    local state=$1 root=$2 deb name; shift 2
    say "downloading $*"
    quietly apt-get "${apt_options[@]}" -y --download-only install "$@"
    mkdir -p "$root"
    for deb in "$state"/cache/archives/*.deb; do
        name=${deb##*/} name=${name%%_*}
        case $name in perl|perl-*|libperl*|gcc-*-base|debconf*|adduser|passwd|mysql-common|mariadb-common) continue ;; esac
        quietly dpkg-deb -x "$deb" "$root"
    done
    rm -f "$state"/cache/archives/*.deb
}

# machine_tools TOOL... : installs the packages of tools that are missing, and prints their names. Only small and common ones.
machine_tools() {
    local tool missing=()
    for tool in "$@"; do
        case $tool in
            xz) command -v xz >/dev/null || missing+=(xz-utils) ;;
            cc) command -v cc >/dev/null || missing+=(gcc libc6-dev) ;;
            busybox) command -v busybox >/dev/null || missing+=(busybox-static) ;;
            ip) PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null || missing+=(iproute2) ;;
            *) command -v "$tool" >/dev/null || missing+=("$tool") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing by apt: ${missing[*]}"
    install_on_machine "${missing[@]}"
}

# install_on_machine PACKAGE... : starts no service that a package brings.
install_on_machine() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    quietly as_root apt-get update -q
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}
