# What one does with a checkout. Each target sets itself up: the first one makes .venv, and installs what it needs into it,
# again when pyproject.toml changes. Every path is relative, so the directory may have spaces in its name.
#
#   make run      Redis and three nodes of a registry on this machine, until Ctrl-C
#   make demo     a primary that hangs and one that is killed, under load, and what that cost (half a minute)
#   make test     everything that must hold: lint, types, tests
#   make format   what ruff can mend by itself
#   make docs     the documentation as a site, in build/site
#   make coverage the tests, and how many lines of replicator/ they run
#   make shape    how large functions, classes and files are here, and in code that is read gladly
#   make bench    the figures and plots of docs/benchmarks.md (some 40 minutes)
#   make soak     an hour of all that can happen to a group, and whether anything grows that nothing bounds
#   make bench-peers  fetch nats-server and etcd from Debian, to be measured beside it
#   make model    the large exploration of the protocol (some minutes)
#   make chaos    faults without end on real servers and processes, and a checker (some 75 minutes)
#   make fuzz     100,000 inputs for every decoder
#   make lock     requirements/: every package with its version and its hashes, anew (`make lock KEEP=--keep`: what is new)
#   make audit    whether a vulnerability is known in what is locked; it asks a service
#   make release  wheel, sdist, SBOM and licences of the newest commit in dist/, tried on every Python that is at hand
#   make clean    remove .venv, and what the tools kept
#
# Another interpreter: make run PYTHON=python3.13 (for a new .venv only; `make clean` first).

PYTHON ?= python3

# Tests wait most of their time, so more of them run at once than a machine has processors.
AT_ONCE ?= 5

BIN := .venv/bin

# What was installed: to run it, to work on it, to measure it, to release it. The second and third have all that the first
# needs, so it is installed only where neither is.
DEV := .venv/.ready-dev
BENCH := .venv/.ready-bench
RUN := $(firstword $(wildcard $(DEV) $(BENCH)) .venv/.ready-run)
RELEASE := .venv/.ready-release

# `make test LOCKED=1`: every package at the version, and with the hashes, that requirements/ has. Otherwise the newest that
# pyproject.toml allows, so that what a new one breaks is seen here first.
EXTRAS = $(if $(filter run,$*),all$(COMMA)embedded,$*)
COMMA := ,

# Warnings of pip about itself are no concern of who runs a demo.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run demo test lint format docs coverage shape bench soak bench-peers model chaos fuzz lock audit release clean

help:
	@sed -n 's/^#   make/make/p' Makefile

run: $(RUN)
	$(BIN)/replicator dev

demo: $(RUN)
	$(BIN)/python -m replicator.sandbox.demo

test: lint
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

coverage: $(DEV)
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal --cov --cov-report=term:skip-covered

shape: $(RUN)
	@$(BIN)/python -m bench.shape

bench: $(BENCH)
	$(BIN)/python -m bench --out docs/benchmarks.md

soak: $(BENCH)
	$(BIN)/python -m bench soak --minutes 60

bench-peers: $(BENCH)
	$(BIN)/python -m bench.install_peers

model: $(DEV)
	$(BIN)/python -m tests.model.explore --large

chaos: $(DEV)
	$(BIN)/python -m tests.chaos --faults 200 --report docs/reliability.md

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz --examples 100000

lock: $(RELEASE)
	$(BIN)/python -m release.lock $(KEEP)

audit: $(RELEASE)
	$(BIN)/python -m release.audit

release: $(RELEASE)
	$(BIN)/python -m release.build

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist *.egg-info

# The stamp is written last: a set-up that was interrupted is done again.
.venv/.ready-%: pyproject.toml requirements/%.txt requirements/build.txt | $(BIN)/python
ifdef LOCKED
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/$*.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
else
	@$(PIP) install --editable '.[$(EXTRAS)]'
endif
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "replicator needs Python 3.11 or later, and $(PYTHON) is %s. Try: make PYTHON=python3.12" % v)'
	@echo "Setting up .venv (once)"
	@$(PYTHON) -m venv .venv
