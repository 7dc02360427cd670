# `make run` serves from a fresh clone; `make test` and `make lint` are what CI asks.

CARGO ?= cargo
TIME ?= 600
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
TOOLS := $(CURDIR)/target/tools
FEATURES := --features failpoints

export SQLX_OFFLINE ?= true
# Tests mostly wait, for servers and for time to pass: two for each processor.
export RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))
# Where the tests find grpcurl, Python, the drivers, PostgreSQL's other majors and the
# proxies.
export HOWDAH_TEST_TOOLS := $(TOOLS)

.PHONY: run quick release debug test soak bench demo fresh tools fmt lint sqlx sqlx-check prerequisites

# Serves with the defaults. Settings: make run ARGS='--listen 127.0.0.1:0'
run: quick
	@exec $(TARGET)/quick/howdah serve $(ARGS)

# Optimized, and built again in seconds after an edit: 6 to 15 s on two cores.
quick:
	@tools/prerequisites.sh build
	$(CARGO) build --profile quick --locked

# What is packaged: smaller and faster, and 3.5 minutes of link-time optimization.
release:
	@tools/prerequisites.sh build
	$(CARGO) build --release --locked

debug:
	@tools/prerequisites.sh test
	$(CARGO) build --locked $(FEATURES)

# All that the tests use besides the system's PostgreSQL, in target/tools.
tools: prerequisites
	@tools/install.sh

prerequisites:
	@tools/prerequisites.sh test

# Everything but the long tables, which are `make soak`.
test: prerequisites
	@tools/install.sh grpcurl python drivers postgres proxies
	$(CARGO) test --locked $(FEATURES) -- --skip soak::

# The long tables, for about TIME seconds in all.
soak: prerequisites
	@tools/install.sh grpcurl python postgres
	@tools/soak.sh $(TIME)

# Figures, as ratios against the bare alternative in the same run. Those with the
# simulated provider need a program of their own, with failpoints.
bench: prerequisites
	@tools/install.sh postgres
	$(CARGO) bench --locked
	$(CARGO) bench --locked --profile quick $(FEATURES)

# The README's tour, by itself, against a server of its own.
demo:
	@tools/prerequisites.sh demo
	@tools/install.sh grpcurl
	@$(MAKE) --no-print-directory quick
	@HOWDAH=$(TARGET)/quick/howdah tools/demo.sh

# The README's commands on a bare Debian, as root and as a user. Needs root.
fresh:
	@tools/fresh.sh

fmt:
	$(CARGO) fmt

lint: prerequisites
	@tools/install.sh buf deny
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(TOOLS)/bin/buf lint
	shellcheck -x .ci/run tools/*.sh tests/drivers/*.sh
	@tools/deny.sh

# The offline data of the store's queries.
sqlx: prerequisites
	@tools/sqlx.sh write

sqlx-check: prerequisites
	@tools/sqlx.sh check
