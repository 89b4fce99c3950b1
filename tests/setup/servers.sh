# shellcheck shell=bash
# Sourced. Real database servers and HAProxy, unpacked into the cache: never installed, so no server or data of the machine's owner is touched.
# What each folder holds is written down in ensure.sh.

mysql_home=$CACHE/servers/mysql
mariadb_home=$CACHE/servers/mariadb
own_home=$CACHE/servers/own
haproxy_home=$CACHE/servers/haproxy

mysql_ready() { [ -x "$mysql_home/run" ] && [ -f "$mysql_home/VERSION" ] && [ -d "$mysql_home/template/mysql" ]; }
mariadb_ready() { [ -x "$mariadb_home/run" ] && [ -f "$mariadb_home/VERSION" ] && [ -d "$mariadb_home/template/mysql" ]; }
# What the files of deploy/haproxy need.
haproxy_version() { "$1" -v | sed -nE 's/^HA-?Proxy version ([0-9.]+).*/\1/p'; }
haproxy_ready() { found_at_least haproxy 2.4 haproxy_version; }
own_ready() { [ "$(cat "$own_home/SOURCE" 2>/dev/null)" = "$(own_source)" ] && [ -d "$own_home/template/mysql" ]; }

# Which binary HAM4DB_TEST_MYSQLD is: another one at the same path makes a new template.
own_source() { stat -L -c '%n %s %Y' "$HAM4DB_TEST_MYSQLD" 2>/dev/null || die "HAM4DB_TEST_MYSQLD=$HAM4DB_TEST_MYSQLD: no such file"; }

set_up_mysql() {
    ! mysql_ready || return 0
    partial mysql
    local home=$partial/home
    if [ "$ID" = ubuntu ]; then
        # noble has it as mysql-server-core-8.0, later ones as mysql-server-core, and which of them is best found by asking.
        private_apt "$partial/apt" "$codename" 'main universe'
        local version
        version=$(apt-cache "${apt_options[@]}" pkgnames mysql-server-core | sort -V | tail -n 1)
        [ -n "$version" ] || die "no mysql-server-core in $codename"
        unpack_packages "$partial/apt" "$home/root" "$version" "${version/server/client}"
    else
        # Debian stable has no MySQL. unstable's needs a newer libc, which comes with it: see run below.
        private_apt "$partial/apt" sid main
        unpack_packages "$partial/apt" "$home/root" mysql-server-core mysql-client-core
    fi
    rm -rf "$partial/apt"
    trim "$home/root"
    write_run "$home" mysqld
    say "MySQL: initialising an empty data directory"
    # A small redo log keeps the template at 70 MB; a server resizes it as it starts. The TLS pair is made here, once.
    unprivileged_init "$home" "$home/run" mysqld --initialize-insecure --innodb-redo-log-capacity=8M --innodb-buffer-pool-size=32M \
        --performance-schema=OFF --datadir="$partial/init/data" --tmpdir="$partial/init" --log-error-verbosity=2
    "$home/run" mysqld --version | sed -E 's/.*Ver ([0-9.]+).*/\1/' >"$home/VERSION"
    settle "$home" "$mysql_home"
    say "MySQL $(cat "$mysql_home/VERSION") in $mysql_home"
}

set_up_mariadb() {
    ! mariadb_ready || return 0
    partial mariadb
    local home=$partial/home components=main
    [ "$ID" != ubuntu ] || components='main universe'
    private_apt "$partial/apt" "$codename" "$components"
    unpack_packages "$partial/apt" "$home/root" mariadb-server-core mariadb-client-core
    # mariadb-install-db and semi-sync's neighbours live in a package with maintainer scripts and a hundred dependencies that only
    # a service needs: take the files, not the dependencies.
    (cd "$partial/apt" && quietly apt-get "${apt_options[@]}" download mariadb-server mariadb-client)
    local deb
    for deb in "$partial"/apt/*.deb; do quietly dpkg-deb -x "$deb" "$home/root"; done
    rm -rf "$partial/apt"
    trim "$home/root"
    write_run "$home" mariadbd
    # What mariadb-install-db looks for under --basedir, each through the folder's own loader.
    mkdir -p "$partial/base/bin" "$partial/base/sbin"
    ln -s "$home/root/usr/share" "$partial/base/share"
    local tool
    for tool in bin/my_print_defaults bin/resolveip sbin/mariadbd; do
        printf '#!/bin/sh\nexec "%s/run" %s "$@"\n' "$home" "${tool#*/}" >"$partial/base/$tool"
        chmod +x "$partial/base/$tool"
    done
    say "MariaDB: initialising an empty data directory"
    unprivileged_init "$home" sh "$home/root/usr/bin/mariadb-install-db" --no-defaults --basedir="$partial/base" \
        --datadir="$partial/init/data" --tmpdir="$partial/init" --auth-root-authentication-method=normal --skip-test-db \
        --innodb-log-file-size=8M
    "$home/run" mariadbd --version | sed -E 's/.*Ver ([0-9.]+).*/\1/' >"$home/VERSION"
    settle "$home" "$mariadb_home"
    say "MariaDB $(cat "$mariadb_home/VERSION") in $mariadb_home"
}

# A server of the user's own, of either flavour, with the libraries and folders it finds by itself.
set_up_own() {
    ! own_ready || return 0
    partial own
    local home=$partial/home version
    mkdir -p "$home"
    version=$("$HAM4DB_TEST_MYSQLD" --no-defaults --version) || die "$HAM4DB_TEST_MYSQLD --version fails"
    printf '#!/bin/sh\n# run PROGRAM ARGS... : the server that HAM4DB_TEST_MYSQLD named.\nshift\ncase ${1:-} in\n--no-defaults|--defaults-*) ;;\n*) set -- --no-defaults "$@" ;;\nesac\nexec "%s" "$@"\n' \
        "$(realpath "$HAM4DB_TEST_MYSQLD")" >"$home/run"
    chmod +x "$home/run"
    case $version in
        *MariaDB*)
            echo mariadb >"$home/FLAVOUR"
            local installer
            installer=$(dirname "$(realpath "$HAM4DB_TEST_MYSQLD")")/../bin/mariadb-install-db
            [ -x "$installer" ] || die "no mariadb-install-db at $installer"
            unprivileged_init "$home" "$installer" --no-defaults --basedir="$(realpath "${installer%/bin/*}")" \
                --datadir="$partial/init/data" --tmpdir="$partial/init" --auth-root-authentication-method=normal --skip-test-db ;;
        *)
            echo mysql >"$home/FLAVOUR"
            unprivileged_init "$home" "$home/run" mysqld --initialize-insecure --datadir="$partial/init/data" --tmpdir="$partial/init" ;;
    esac
    sed -E 's/.*Ver ([0-9.]+).*/\1/' <<<"$version" >"$home/VERSION"
    own_source >"$home/SOURCE"
    settle "$home" "$own_home"
}

# The package itself would start a service. It is run through the loader that comes with it, as a machine seldom has its libraries.
set_up_haproxy() {
    ! haproxy_ready || return 0
    partial haproxy
    local home=$partial/home
    private_apt "$partial/apt" "$codename" main
    unpack_packages "$partial/apt" "$home/root" haproxy
    rm -rf "$partial/apt"
    trim "$home/root"
    write_run "$home" ''
    settle "$home" "$haproxy_home"
    mkdir -p "$bin"
    printf '#!/bin/sh\nexec "%s/run" haproxy "$@"\n' "$haproxy_home" >"$partial/haproxy"
    chmod +x "$partial/haproxy"
    mv "$partial/haproxy" "$bin/haproxy"
    say "$("$bin/haproxy" -v | head -n 1)"
}

# Documentation and debug files are half of what the packages unpack to.
trim() {
    rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/info "$1"/usr/share/lintian "$1"/usr/share/locale \
        "$1"/usr/share/bash-completion "$1"/usr/lib/debug "$1"/usr/share/perl5 "$1"/usr/share/mysql/mysql-test \
        "$1"/usr/lib/mysql/plugin/debug
}

# unprivileged_init HOME COMMAND... : runs COMMAND as an unprivileged user, which has to fill $partial/init/data, and makes that
# HOME/template.
unprivileged_init() {
    local home=$1; shift
    mkdir -p "$partial/init/data"
    [ "$(id -u)" != 0 ] || chown -R "$nobody:$nobody" "$partial/init"
    quietly "$setup/unprivileged.sh" "$@"
    rm -f "$partial"/init/data/auto.cnf "$partial"/init/data/*.err       # a server's uuid: each copy makes its own
    [ "$(id -u)" != 0 ] || chown -R "$(id -u):$(id -g)" "$partial/init/data"
    # Its keys are the same in every copy and secure nothing. Readable, so that an unprivileged copy works too.
    chmod -R a+rX "$partial/init/data"
    mv "$partial/init/data" "$home/template"
}

# write_run HOME SERVER : HOME/run PROGRAM ARGS... becomes PROGRAM of HOME/root; SERVER is the database server there, if any. It starts through the C library and the loader that
# came with the packages, as the machine's may be older. The folders below are compiled into the server as absolute paths.
write_run() {
    local loader
    loader=$(find "$1/root" -name 'ld-linux*.so.*' -printf '%P\n' | sort | head -n 1)
    [ -n "$loader" ] || die "no loader among the unpacked packages"
    cat >"$1/run" <<EOT
#!/bin/sh
# run PROGRAM ARGS... : PROGRAM out of the unpacked packages beside this file. Becomes it: the process id stays.
case \$0 in */*) root=\${0%/*}/root ;; *) root=\$(dirname "\$(command -v "\$0")")/root ;; esac
case \$root in /*) ;; *) root=\$PWD/\$root ;; esac
program=\$1
shift
for folder in usr/sbin usr/bin; do
    if [ -x "\$root/\$folder/\$program" ]; then binary=\$root/\$folder/\$program; break; fi
done
if [ -z "\${binary:-}" ]; then echo "\$0: no program \$program in \$root" >&2; exit 127; fi
if [ "\$program" = '$2' ]; then
    # Options about option files count only when they come first.
    case \${1:-} in --no-defaults|--defaults-file=*|--defaults-extra-file=*) first=\$1; shift ;; *) first=--no-defaults ;; esac
    set -- "\$first" --basedir="\$root/usr" --lc-messages-dir="\$root/usr/share/mysql" --character-sets-dir="\$root/usr/share/mysql/charsets" \\
        --plugin-dir="\$root/usr/lib/mysql/plugin" --secure-file-priv= "\$@"
fi
exec "\$root/$loader" --library-path "\$root/lib/$multiarch:\$root/usr/lib/$multiarch:\$root/usr/lib/mysql/private" "\$binary" "\$@"
EOT
    chmod +x "$1/run"
}
