# The image of ham4db: two static binaries, a shell for hooks, CA certificates and time zones; no distribution underneath.
#
#   docker build -t ham4db .                          compiles here
#   make image                                        takes the static binaries of target/release-static/ instead
#
# Every stage builds with docker, podman and buildah. Older builders run all stages whether needed or not, so the choice
# between compiling and taking is made by arguments inside one stage, and the stage's base with it: with binaries at hand
# the compiler's image is not needed.
#   BUILD_BASE=debian:bookworm-slim PREBUILT=target/release-static
ARG BUILD_BASE=rust:1.95-bookworm

FROM ${BUILD_BASE} AS binaries
LABEL io.ham4db.stage=binaries
ARG PREBUILT=
WORKDIR /source
COPY . .
# crt-static with the host's own triple named: without --target the flag would reach build scripts and procedural macros too.
RUN set -eu; mkdir -p /out; \
    if [ -n "$PREBUILT" ]; then from=$PREBUILT; \
    else \
        target=$(rustc -vV | sed -n 's/^host: //p'); \
        RUSTFLAGS='-C target-feature=+crt-static' CARGO_TARGET_DIR=/target \
            cargo build --release --locked --bins --target "$target"; \
        from=/target/$target/release; \
    fi; \
    install -m 0755 "$from/ham4db" "$from/ham4db-client" /out/

FROM debian:bookworm-slim AS rootfs
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends busybox-static ca-certificates tzdata
# The shell comes with all of busybox's small programs, because a hook wants more than a shell. Names resolve without a
# resolver library: static glibc reads nsswitch.conf, and has "files" and "dns" built in.
RUN set -eu; r=/rootfs; \
    mkdir -p $r/bin $r/etc/ssl/certs $r/etc/ham4db $r/usr/bin $r/usr/share $r/var/lib/ham4db $r/tmp; \
    cp /bin/busybox $r/bin/busybox; \
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$r/bin/$applet"; done; \
    ln -s ../../bin/busybox $r/usr/bin/env; \
    cp /etc/ssl/certs/ca-certificates.crt $r/etc/ssl/certs/; \
    cp -a /usr/share/zoneinfo $r/usr/share/; cd $r/usr/share/zoneinfo; \
    rm -rf right posix tzdata.zi leap* *.tab; cd /; \
    printf 'root:x:0:0:root:/:/bin/false\nham4db:x:65532:65532:ham4db:/var/lib/ham4db:/bin/sh\n' >$r/etc/passwd; \
    printf 'root:x:0:\nham4db:x:65532:\n' >$r/etc/group; \
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >$r/etc/nsswitch.conf; \
    chmod 1777 $r/tmp; chown -R 65532:65532 $r/var/lib/ham4db

FROM scratch
ARG VERSION=0.4.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ham4db" \
      org.opencontainers.image.description="High availability for MySQL and MariaDB replication: detects failures, agrees on them, repairs them." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=rootfs /rootfs/ /
COPY --from=binaries /out/ /usr/bin/
ENV PATH=/usr/bin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /var/lib/ham4db
# API, health, peers
EXPOSE 3000 3001 10008
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/ham4db"]
CMD ["server", "--config", "/etc/ham4db/ham4db.conf.json"]
