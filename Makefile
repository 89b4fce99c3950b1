# The targets of this project. CI calls these and nothing else (.ci/run).
# Variables: FLAVOUR=mysql|mariadb (demo, bench), SECONDS=n SEED=n (chaos, fuzz), ACTS=name,name (chaos: only these acts), KEEP=1 (demo: leave it running), RELEASE=1 (bench, fleet: of the static release build), TARGETS="raft http" (test: only these).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help build test scenarios deployments fuzz lint bench chaos demo fleet picture smoke e2e image crds clean clean-cache release

# What a bench measures: both, unless one is named.
BENCH := $(or $(FLAVOUR),both)
FLAVOUR ?= mysql
TARGETS ?=
SECONDS ?= 600
SEED ?=
ACTS ?=
RELEASE ?=
stage := tests/setup/stage.sh
ensure := tests/setup/ensure.sh
debug := $(or $(CARGO_TARGET_DIR),target)/debug
# What needs root gets it by sudo when it is not there yet.
as_root := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=HOME,PATH,XDG_CACHE_HOME)
export FLAVOUR

help: ## lists the targets
	@echo 'make TARGET [VARIABLE=value]'
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@sed -nE 's/^# (Variables: .*)/\n\1/p' $(MAKEFILE_LIST)

build: ## the two binaries, for debugging: target/debug/ham4db, target/debug/ham4db-client; demo, bench and chaos with them
	@$(stage) build tests/setup/build.sh

test: ## every test, cheapest first, then the demo; sets up MySQL, MariaDB, HAProxy and an API server once
	@tests/setup/run-tests.sh $(TARGETS)

scenarios: ## every scenario with real servers, also the long ones that `make test` leaves out (25 min)
	@tests/setup/run-tests.sh scenarios

deployments: ## five members in three data centers, shared probes; a thousand commands that contradict each other on a shared backend: too long for `make test` (root or sudo)
	@tests/setup/run-tests.sh deployments
	@HAM4DB_ROUNDS=1000 tests/setup/cargo.sh test --locked --quiet --test store of_commands -- --nocapture

fuzz: ## the client of the MySQL protocol, on conversations changed at random; SECONDS=600 SEED=n
	@HAM4DB_FUZZ_SECONDS=$(SECONDS) $(if $(SEED),HAM4DB_FUZZ_SEED=$(SEED)) tests/setup/cargo.sh test --locked --quiet --lib no_conversation_makes_the_client -- --nocapture

lint: ## format, clippy, documentation, prose, shell scripts, dependencies; changes no file
	@tests/setup/lint.sh

demo: ## a primary is killed under four writers; FLAVOUR=mariadb, KEEP=1
	@tests/setup/run-example.sh demo $(FLAVOUR)

bench: $(if $(RELEASE),release) ## failovers with their phases, silent partitions, CPU of a probe, a fleet; FLAVOUR, FAILOVERS=30, PARTITION=5, SERVERS=150, RELEASE=1
	@$(if $(RELEASE),HAM4DB_BIN_DIR=$(CURDIR)/target/release-static) FLAVOUR=$(BENCH) tests/setup/run-example.sh bench mysql mariadb

fleet: $(if $(RELEASE),release) ## members over simulated servers: load, failovers, false failures; SERVERS="1000 3000", SILENT=n, MEMBERS=3 SHARING=round-robin, RELEASE=1
	@$(if $(RELEASE),HAM4DB_BIN_DIR=$(CURDIR)/target/release-static) tests/setup/run-example.sh fleet tools

chaos: ## random failures on real servers and members, judged all the time; SECONDS=600 SEED=n ACTS=name,name (root or sudo)
	@CHAOS_SECONDS=$(SECONDS) SEED=$(SEED) ACTS=$(ACTS) tests/setup/run-example.sh chaos mysql mariadb

picture: ## docs/failover.svg, recorded from the demo
	@tests/setup/record-demo.py

smoke: ## the chart, then the image and a failover in a real one-node cluster on this machine (root or sudo)
	@$(ensure) mysql kube-node bases
	@$(stage) 'release build' tests/setup/release.sh
	@$(stage) 'chart' tests/e2e/chart.sh
	@$(stage) 'smoke' $(as_root) tests/e2e/smoke.sh

e2e: smoke ## and three nodes with servers in pods and outside: failovers, takeovers, lost nodes, upgrades, scaling (12 min, 5 more once)
	@$(ensure) mariadb
	@$(stage) 'nodes' $(as_root) tests/e2e/nodes.sh

image: release ## the container image, by docker, podman or buildah; IMAGE=name:tag, BUILDER=...
	@$(stage) 'image' tests/e2e/image.sh

crds: ## writes crds/mysqlclusters.ham4db.io.yaml from the Rust types
	@mkdir -p crds
	@tests/setup/build.sh
	@$(debug)/ham4db crd >crds/.new.yaml
	@mv crds/.new.yaml crds/mysqlclusters.ham4db.io.yaml
	@$(ensure) tools helm
	@deploy/render.sh

clean: ## stops and removes what runs in the cache folder, and target/; downloads stay
	@tests/setup/clean.sh
	@cargo clean --quiet

clean-cache: ## also removes the whole cache folder: servers, Go, Kubernetes
	@tests/setup/clean.sh --cache

release:
	@$(stage) 'release build' tests/setup/release.sh
