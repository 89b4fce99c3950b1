# shellcheck shell=bash
# Sourced. ZooKeeper from this distribution's packages, unpacked into the cache. It runs on the Java of the machine, or on one that is
# unpacked beside it.

zookeeper_home=$CACHE/zookeeper

zookeeper_ready() { [ -x "$zookeeper_home/run" ]; }

set_up_zookeeper() {
    ! zookeeper_ready || return 0
    partial zookeeper
    local home=$partial/home java packages=(libzookeeper-java) components=main
    [ "$ID" != ubuntu ] || components='main universe'
    java=$(command -v java) || { java=''; packages+=(default-jre-headless); }
    private_apt "$partial/apt" "$codename" "$components"
    unpack_packages "$partial/apt" "$partial/root" "${packages[@]}"
    # Of a hundred jars a server alone needs these.
    local jar class_path=''
    mkdir -p "$home/java"
    for jar in zookeeper zookeeper-jute netty-{buffer,codec,common,handler,resolver,transport,transport-native-epoll} \
        netty-{transport-native-unix-common,tcnative} slf4j-{api,simple} commons-{cli,io} metrics-core snappy-java; do
        cp -L "$partial/root/usr/share/java/$jar.jar" "$home/java/"
        class_path+=${class_path:+:}$zookeeper_home/java/$jar.jar
    done
    if [ -z "$java" ]; then
        mv "$partial/root/usr/lib/jvm" "$home/jvm"
        java=$(cd "$home" && find jvm -path '*/bin/java' -type f | head -n 1)
        [ -n "$java" ] || die 'no java in default-jre-headless'
        java=$zookeeper_home/$java
    fi
    {
        printf '#!/bin/sh\n# run CONFIGURATION : becomes a ZooKeeper server. Its log goes to the standard error.\n'
        printf 'exec "%s" -Xmx128m -Dzookeeper.jmx.log4j.disable=true -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \\\n' "$java"
        printf '    -Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory \\\n'
        printf '    -cp "%s" org.apache.zookeeper.server.ZooKeeperServerMain "$1"\n' "$class_path"
    } >"$home/run"
    chmod +x "$home/run"
    settle "$home" "$zookeeper_home"
    say "ZooKeeper in $zookeeper_home"
}
