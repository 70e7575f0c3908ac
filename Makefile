# plywood: `make demo` shows it, `make test` proves it. Both install what they need (apt, as root).

TARGET := $(or $(CARGO_TARGET_DIR),target)
PLYWOOD := $(TARGET)/release/plywood
export CARGO_TERM_PROGRESS_WHEN ?= never

.DEFAULT_GOAL := help
.PHONY: help deps deps-test build install demo test attacks torture cycles bench fuzz lint guest clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-10s %s\n' "$$name" "$$what"; done

deps: ## install what building needs and is missing
	@scripts/deps build

deps-test: ## install what the tests need besides
	@scripts/deps test

build: deps ## the release binary, target/release/plywood
	scripts/cargo build --release --locked

demo: ## play the main job through; DRIVER=thin|overlay|auto (thin: in a guest where this kernel cannot)
	@scripts/deps demo
	@$(MAKE) --no-print-directory build
	scripts/demo $(or $(DRIVER),auto)

test: deps-test ## everything: lint, tests on this kernel, device-mapper tests in the guest
	tests/run

attacks: deps-test ## the attacks in long loops: ROUNDS=100000 races, bombs at their full size, generated tars
	PLYWOOD_TEST_ROUNDS=$(or $(ROUNDS),100000) tests/run root_attacks root_unpack import_attacks document_attacks readers
	PLYWOOD_TEST_ROUNDS=$(or $(ROUNDS),100000) scripts/cargo test --locked --test root_escape --test root_copy

torture: deps-test ## random kills, power cuts and crowds: make torture SECONDS=600 SEED=1
	tests/torture/run $(or $(SECONDS),600) $(SEED)

cycles: deps-test ## containers begun and ended in every way, and nothing left: ROUNDS=1000, in the guest a tenth
	PLYWOOD_TEST_ROUNDS=$(or $(ROUNDS),1000) scripts/cargo test --locked --test root_cycles -- --nocapture
	PLYWOOD_TEST_ROUNDS=$$(($(or $(ROUNDS),1000) / 10)) tests/run root_cycles

bench: ## times import, commit, export and others beside tar, umoci, podman, containerd: RUNS=3 ONLY=word FULL=1
	@scripts/deps bench
	@$(MAKE) --no-print-directory build
	scripts/bench --runs $(or $(RUNS),3) --only '$(ONLY)' $(if $(FULL),--full)

lint: deps ## format and clippy, warnings are errors
	scripts/cargo fmt --check
	scripts/cargo clippy --workspace --all-targets --locked -- -D warnings

fuzz: ## every fuzz target for T=60 seconds, or TARGET=NAME alone; as root
	@scripts/deps fuzz
	scripts/fuzz $(or $(T),60) $(TARGET)

guest: deps-test ## run one command in a guest with device-mapper: make guest CMD='dmsetup targets'
	@tests/guest/boot -- sh -c '$(subst ','\'',$(or $(CMD),dmsetup targets))'

clean: ## remove everything that was built
	rm -rf $(TARGET)
