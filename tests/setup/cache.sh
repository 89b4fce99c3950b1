# shellcheck shell=bash
# Sourced by the scripts here: the folders, the output of scripts, and the lock and the time of a step.
set -euo pipefail
umask 022                                    # what lies in the cache is read by the unprivileged processes of the tests

setup=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$setup/../.." && pwd)
# shellcheck source=tools.sh
. "$setup/tools.sh"
nobody=65534                                 # user and group of every process of the project when root starts it

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# step NAME FUNCTION... : runs FUNCTION under the lock NAME, prints how long it took, and names the step when it fails.
# A second caller waits, and then finds the work done: each FUNCTION begins by looking.
step() {
    local name=$1 begun=$SECONDS log; shift
    mkdir -p "$CACHE/locks" "$CACHE/logs"
    log=$CACHE/logs/$name.log
    if (
        exec 8>"$CACHE/locks/$name"
        if ! flock -n 8; then
            say "$name: waiting for another set-up, which has the lock"
            flock -w 3600 8 || die "$name: still locked after an hour by $CACHE/locks/$name; stop the other set-up"
        fi
        # The work runs in a process of its own: `if` would switch off `set -e` in it.
        bash -c 'set -euo pipefail; . "$1/cache.sh"; . "$1/apt.sh"; . "$1/servers.sh"; . "$1/kubernetes.sh"; . "$1/zookeeper.sh"; shift; "$@"' \
            step "$setup" "$@" 8>&- 9>"$log"
    ); then
        [ $((SECONDS - begun)) -lt 2 ] || say "$name: ready after $((SECONDS - begun)) s"
    else
        say "$name: FAILED. The last lines of $log:"
        tail -n 15 "$log" | sed 's/^/    /' >&2
        die "$name is not set up. Correct the failure that is shown above, then run set-up again: finished parts stay."
    fi
}

# quietly COMMAND... : its output goes to the step's log.
quietly() { "$@" >&9 2>&9; }

# partial NAME : an empty folder of this process for work that is renamed into place when it is whole. Sets $partial.
partial() {
    partial=$CACHE/partial/$1.$$
    rm -rf "$partial"
    mkdir -p "$partial"
    trap 'rm -rf "$partial"' EXIT
}

# settle FOLDER DESTINATION : the finished folder takes the place of an older one.
settle() {
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ]; then mv "$2" "$partial.old"; fi
    mv "$1" "$2"
    rm -rf "$partial.old"
}

# as_root COMMAND... : as it is when root, by sudo otherwise.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -- "$@"
    else die "needs root or sudo for: $*"; fi
}

# about SECONDS : how long that takes here, in words. SECONDS is the time that two cores need which count to 300000 in 0.27 s each. What is
# compiled takes a third of that time on some machines and three times as long on others, so the same count is made here.
about() {
    local count='for ((i = 0; i < 300000; i++)); do :; done' user seconds TIMEFORMAT=%U
    : "${speed:=$({ time { (eval "$count") & (eval "$count") & wait; }; } 2>&1)}"
    user=$((10#${speed//[!0-9]/}))                 # milliseconds of both, as 0.540
    seconds=$(($1 * user / 540))
    if [ "$seconds" -lt 100 ]; then echo "about $(((seconds + 5) / 10 * 10)) s"
    else echo "about $(((seconds + 15) / 60)) min$([ $(((seconds + 15) % 60)) -lt 30 ] || echo ' 30 s')"; fi
}

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
