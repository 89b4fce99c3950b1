#!/usr/bin/env bash
# machine-tools.sh : prints where Go, kubectl and helm are found. A copy in the cache folder of one that the machine itself has, new enough, is
# removed: the cache folder is looked at first, and CI proves that the tests run with what a machine has.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cache.sh"; . "$here/kubernetes.sh"
cache=$CACHE
for tool in go kubectl helm; do
    CACHE=/nonexistent
    if "${tool}_ready"; then rm -f "$cache/bin/$tool"; fi
    CACHE=$cache
    if "${tool}_ready"; then echo "$tool: $(find_tool "$tool")"; else echo "$tool: will be set up in $CACHE/bin"; fi
done
