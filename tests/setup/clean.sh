#!/usr/bin/env bash
# Ends whatever an interrupted demo, test or cluster left running under the cache's run folder, and empties it. Downloads stay.
#   clean.sh --cache      removes the whole cache as well
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cache.sh"
cluster=$here/../cluster
if [ -d "$CACHE/run/cluster" ]; then as_root env HAM4DB_TEST_DIR="$CACHE" "$cluster/cluster-down.sh" || true; fi
for folder in "$CACHE"/run/*/; do
    [ ! -f "$folder/kube-apiserver.pid" ] || RUN=${folder%/} HAM4DB_TEST_DIR=$CACHE "$cluster/apiserver-down.sh" || true
done

# Processes that work in the run folder, or that were started with a path in it: no other process has a reason to name it.
running() {
    local process pid
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" != $$ ] && [ "$pid" != "$PPID" ] || continue
        case $(readlink "$process/cwd" 2>/dev/null) in "$CACHE"/run/*) echo "$pid"; continue ;; esac
        if tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -qF -- "$CACHE/run/"; then echo "$pid"; fi
    done
} 2>/dev/null
mapfile -t left < <(running)
if [ ${#left[@]} -gt 0 ]; then
    say "ending ${#left[@]} processes under $CACHE/run"
    as_root kill -9 "${left[@]}" 2>/dev/null || true
fi
if [ -d "$CACHE/run" ]; then find "$CACHE/run" -mindepth 1 -maxdepth 1 -exec rm -rf {} + 2>/dev/null || as_root rm -rf "$CACHE/run"; fi
rm -rf "$CACHE/partial"
if [ "${1:-}" = --cache ]; then
    say "removing $CACHE"
    rm -rf "$CACHE" 2>/dev/null || as_root rm -rf "$CACHE"
fi
