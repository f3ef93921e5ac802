# The front door. `make run` and `make test` work on a fresh Debian machine with Rust; `make help` lists the rest.
# There is one profile, release, for programs and tests alike: RocksDB is compiled once.

CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# Where `make run` keeps its data; delete it to start anew.
DATA ?= $(CURDIR)/target/standalone
# What `make run` adds to the command line, for example RUN_ARGS="--replicas 3".
RUN_ARGS ?=
SEEDS ?= 0..200
# How long `make fuzz` tries each decoder, and which of them.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= remoting_frame remoting_header stored_message broker_command peer_hello controller_command
# What `make bench` adds, for example BENCH_ARGS="--rows T1,F1".
BENCH_ARGS ?=

.PHONY: help run build fmt fmt-check lint doc test unit e2e client-view controllers-gone sim fuzz bench verify

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

run: build ## build and start a whole cluster in one process on this machine
	$(BIN)/flotilla standalone --data $(DATA) $(RUN_ARGS)

build: ## install what compiling needs, build the programs
	@.ci/install build
	@echo "building; the first time takes 10 to 20 minutes on 2 cores, most of it RocksDB"
	$(CARGO) build --release --locked --workspace --bins

fmt: ## format the code
	$(CARGO) fmt --all

fmt-check: ## check the format, change nothing
	$(CARGO) fmt --all --check

lint: ## clippy, warnings are errors
	@.ci/install build
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

doc: ## build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --document-private-items

test: ## every test: units, storage, simulation, and real processes with official Java clients
	@.ci/install test
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked --workspace --no-fail-fast

unit: ## the tests without real processes
	$(CARGO) test --release --locked --workspace --exclude flotilla-e2e

e2e: ## real processes, official Java clients, kills under load
	@.ci/install test
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked -p flotilla-e2e --no-fail-fast

client-view: ## what official Java clients notice of a killed node: failed sends and pauses, some minutes
	@.ci/install test
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked --workspace --test client_view -- --ignored --nocapture

controllers-gone: ## ten minutes without controllers: clients go on while nodes die and restart
	@.ci/install test
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked -p flotilla-e2e --test controllers_gone -- --ignored --nocapture

sim: ## the simulator over many seeds: make sim SEEDS=0..1000
	$(CARGO) build --release --locked -p flotilla-e2e --bin flotilla-sim
	$(BIN)/flotilla-sim --seeds $(SEEDS)

fuzz: ## the decoders under libFuzzer: make fuzz FUZZ_SECONDS=600; gets nightly Rust and cargo-fuzz if missing
	@.ci/install build
	@rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@for target in $(FUZZ_TARGETS); do \
		cargo +nightly fuzz run --fuzz-dir e2e/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

bench: build ## the measured goals, into target/bench/<time>.json
	@mkdir -p target/bench
	$(BIN)/flotilla bench matrix --out target/bench/$$(date -u +%Y-%m-%dT%H-%M-%SZ).json $(BENCH_ARGS)

verify: ## what CI runs, and the documentation; changes no file
	$(MAKE) fmt-check lint doc test
