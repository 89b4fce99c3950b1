#!/usr/bin/env bash
# unprivileged.sh COMMAND ARGS... : becomes COMMAND (same process id) as a user without any privilege.
#
# Not root: nothing to do. Root: user and group 65534, no supplementary groups, no capability, none to be gained.
# The cache and the checkout usually lie under root's home, which that user may not enter. So when they do, the process gets a mount
# namespace of its own in which the closed folder above them (/root) is an empty one with nothing but these in it, at the same
# paths: the process can read them and write where it owns a folder, and sees nothing else of that home.
# HAM4DB_EXPOSE names more folders, separated by colons, that have to be readable.
set -euo pipefail
[ $# -gt 0 ] || { echo "unprivileged.sh: no command given" >&2; exit 64; }
[ "$(id -u)" = 0 ] || exec "$@"

drop=(setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --no-new-privs)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/ham4db}"

# The topmost folder on the way to $1 that others may not enter, if any.
closed_above() {
    local path=$1 mode closed=''
    while [ "$path" != / ] && [ -n "$path" ]; do
        mode=$(stat -L -c %a "$path" 2>/dev/null) || mode=755
        (( 8#$mode & 1 )) || closed=$path
        path=${path%/*}
    done
    echo "$closed"
}

if [ "${1:-}" != --in-namespace ]; then
    folders=("$CACHE" "${here%/tests/setup}")
    program=$(type -P "$1") || { echo "unprivileged.sh: no such command: $1" >&2; exit 127; }
    program=$(realpath "$program")
    case $program in "$CACHE"/*|"${here%/tests/setup}"/*) ;; *) folders+=("${program%/*}") ;; esac
    if [ -n "${HAM4DB_EXPOSE:-}" ]; then IFS=: read -ra more <<<"$HAM4DB_EXPOSE"; folders+=("${more[@]}"); fi
    hidden=()
    for folder in "${folders[@]}"; do
        closed=$(closed_above "$folder")
        [ -z "$closed" ] || hidden+=("$closed=$folder")
    done
    [ ${#hidden[@]} -gt 0 ] || exec "${drop[@]}" -- "$@"
    unshare --mount true 2>/dev/null || {
        echo "unprivileged.sh: ${hidden[0]#*=} lies under ${hidden[0]%%=*}, which user 65534 may not enter, and this machine allows" >&2
        echo "no mount namespace. Set XDG_CACHE_HOME to a folder that every user may enter, and check the project out in such a one." >&2
        exit 77
    }
    exec unshare --mount --propagation private bash "${BASH_SOURCE[0]}" --in-namespace "${#hidden[@]}" "${hidden[@]}" "$@"
fi

# In the namespace: hold each folder open, cover the closed ones, and put each folder back at its place.
shift; count=$1; shift
declare -A covered=()
places=() handles=()
for ((i = 0; i < count; i++)); do
    places+=("$1")
    exec {handle}<"${1#*=}"
    handles+=("$handle")
    shift
done
work=$PWD
cd /
for place in "${places[@]}"; do
    closed=${place%%=*} folder=${place#*=}
    [ "$closed" != "$folder" ] || { echo "unprivileged.sh: $folder is closed to others itself: chmod o+rx it" >&2; exit 77; }
    if [ -z "${covered[$closed]:-}" ]; then mount -t tmpfs -o mode=0755,size=1m ham4db "$closed"; covered[$closed]=1; fi
done
for i in "${!places[@]}"; do
    folder=${places[i]#*=}
    (umask 022; mkdir -p "$folder")
    handle=${handles[i]}
    mount --no-canonicalize --rbind "/proc/self/fd/$handle" "$folder"
    exec {handle}<&-
done
cd "$work" 2>/dev/null || cd /
exec "${drop[@]}" --bounding-set=-all -- "$@"
