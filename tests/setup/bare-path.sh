#!/usr/bin/env bash
# Makes and prints a folder with links to every program in PATH but Go, kubectl, helm and the database servers: with it as PATH, set-up has to
# bring its own, as on a fresh machine. The caller removes it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cache.sh"
# Not in the cache folder: where that lies in a closed home, unprivileged.sh covers it before it has called its last program.
folder=$(mktemp -d -t ham4db-bare-path.XXXX)
chmod 0755 "$folder"
IFS=: read -ra places <<<"$PATH:/usr/sbin:/sbin"
for ((i = ${#places[@]} - 1; i >= 0; i--)); do        # backwards: the first place in PATH wins
    [ -d "${places[i]}" ] && [ "${places[i]}" != "$CACHE/bin" ] || continue
    find "$(realpath "${places[i]}")" -mindepth 1 -maxdepth 1 -xtype f -executable -exec ln -sf -t "$folder" {} +
done
rm -f "$folder"/go "$folder"/gofmt "$folder"/kubectl "$folder"/helm "$folder"/mysql* "$folder"/mariadb* "$folder"/my_print_defaults
echo "$folder"
