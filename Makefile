# Cube KV. `make` lists the targets; docs/development.md says why they are as they are.

.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(CURDIR)/target

# One profile and one selection of packages for everything that compiles RocksDB: another one is another set of
# unified features, and twenty more minutes.
WORKSPACE := --release --workspace

# The tests that draw other cases when CUBE_TEST_FRESH is set, and so many times more of them with CUBE_TEST_CASES.
PROPERTIES := --lib $(addprefix --test ,anti_entropy crash dirty_crash dirty_damage edge engine_conformance hints_crash hints_damage hints_log placement quorum scans scrub store_model)

# Data and logs of `make run`. What is there from the last time is continued.
DIR ?= $(CARGO_TARGET_DIR)/cluster

.PHONY: help setup build run test test-long test-logic fuzz sim lint fix bench bench-cluster bench-overload bench-peers

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Install what a build needs, or name it
	@scripts/setup.sh

RELEASE := $(CARGO_TARGET_DIR)/release

build: setup ## Build everything: cubed, cube, its manual pages and completions end up in the folder release of the build directory
	cargo build $(WORKSPACE) --all-targets
	@"$(RELEASE)/cube" man --dir "$(RELEASE)/man/man1"
	@for shell in bash zsh fish; do "$(RELEASE)/cube" completions $$shell --dir "$(RELEASE)/completions" || exit 1; done

run: build ## Build, then run three nodes on this machine; Ctrl-C stops them. DIR=folder keeps their data elsewhere
	exec "$(RELEASE)/cubed" dev --nodes 3 --dir "$(DIR)"

test: ## Run all tests but the long ones
	@scripts/setup.sh test
	cargo test $(WORKSPACE) --locked

# Bits that are flipped in files of each kind, and as many times more cases of properties than the tests take.
FLIPS ?= 500
CASES ?= 10

test-long: setup ## Run the long tests, then the README's two commands on a clean machine (needs root)
	CUBE_TEST_FRESH=1 cargo test $(WORKSPACE) --locked --tests -- --ignored
	CUBE_TEST_FRESH=1 CUBE_TEST_CASES=$(CASES) cargo test $(WORKSPACE) --locked $(PROPERTIES)
	CUBE_TEST_FRESH=1 CUBE_FLIPS=$(FLIPS) cargo test $(WORKSPACE) --locked --test corruption files::
	$(MAKE) sim SEEDS=10000
	scripts/clean-machine.sh

# As many times more cases than the tests take.
FUZZ ?= 500

fuzz: ## Give parsers of statements and of bodies what nobody would: FUZZ=5000 for longer
	@scripts/setup.sh test
	CUBE_TEST_FRESH=1 CUBE_TEST_CASES=$(FUZZ) cargo test $(WORKSPACE) --locked --lib --test edge -- fuzz

test-logic: ## Test the storage and replication crates without RocksDB
	@scripts/setup.sh logic
	CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/logic" cargo test --release --locked -p cube-storage -p cube-replication

sim: ## Run the simulator: SEEDS=1000, or SEED=42 TRACE=1 to replay one
	@scripts/setup.sh logic
	CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/logic" cargo build --release --locked -p cube-replication --features sim --bin cube-sim
	@SEEDS="$(SEEDS)" SEED="$(SEED)" FIRST="$(FIRST)" TRACE="$(TRACE)" MUTANT="$(MUTANT)" "$(CARGO_TARGET_DIR)/logic/release/cube-sim"

lint: ## Check format, clippy, dependency directions and licences; changes nothing
	@scripts/setup.sh lint
	cargo fmt --all --check
	cargo clippy $(WORKSPACE) --all-targets --locked -- -D warnings
	cargo test $(WORKSPACE) --locked --test workspace_rules

fix: ## Format, and let clippy mend what it can
	@scripts/setup.sh lint
	cargo clippy $(WORKSPACE) --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

bench: setup ## Run the benchmarks; BENCH=name picks some
	cargo bench --profile release --workspace --benches -- $(BENCH)

# Runs of their own pass other options: make bench-cluster BENCH_ARGS="--quick --hot-only"
bench-cluster: build ## Measure a cluster of three nodes against its marks
	"$(RELEASE)/cube-bench" marks $(BENCH_ARGS)

bench-overload: build ## Ask nodes for three times more than they take, also with one that stands still
	"$(RELEASE)/cube-bench" overload $(BENCH_ARGS)

bench-peers: build ## Let Cube KV and etcd take turns with the same workload
	@scripts/setup.sh peers
	"$(RELEASE)/cube-bench" peers $(BENCH_ARGS)
