# Everything works from a fresh checkout with Python 3.11 or later, git and make.
# The first target that needs it makes .venv with the locked dependencies; later ones reuse it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	if command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null; then echo $$name; break; fi; done)

# Its name holds what was installed: a changed lock or pyproject.toml installs again, a new
# time stamp on an unchanged file (a checkout, a copy) does not.
INSTALLED := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | git hash-object --stdin)

PYTEST_OPTIONS ?=
DIR ?= .pbft
SEEDS ?= 0..100
REPLICAS ?= 4,5,6,7
MUTANTS ?=

.PHONY: help install run test lint types protos mutants lock sim bench bench-etcd chaos durability clean

help:
	@echo "make run        a cluster of 4 processes, killed and corrupted while it serves"
	@echo "make test       all tests (make lint, make types: style and types)"
	@echo "make sim        the deterministic simulator (SEEDS=0..100 REPLICAS=4,5,6,7)"
	@echo "make bench      operations per second of a cluster on this machine"
	@echo "make bench-etcd the same against a three-node etcd, when etcd is installed"
	@echo "make chaos      two minutes of kill -9 under load, history checked"
	@echo "make durability kill -9 of all replicas at once, 50 times; lost and rolled-back disks"
	@echo "make mutants    breaks the code line by line: the tests must notice (MUTANTS=NAMES)"
	@echo "make protos     generates pbft/wire from proto/;  make lock: renews requirements.lock"

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or later is needed (set PYTHON=...)" >&2; exit 1; }
	@echo "installing into $(VENV) with $$($(PYTHON) --version) (once; takes about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

run: $(INSTALLED)
	@$(BIN)/pbft main-job --dir $(DIR)

test: $(INSTALLED)
	$(BIN)/python -m pytest -q $(PYTEST_OPTIONS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

protos: $(INSTALLED)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. \
		proto/pbft/wire/*.proto

# The lock is what a clean environment gets from pyproject.toml today, build tools included.
lock:
	@directory=$$(mktemp -d); trap 'rm -rf "$$directory"' EXIT; \
	$(PYTHON) -m venv "$$directory"; \
	"$$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
		'.[dev]' 'hatchling>=1.25' 'editables>=0.5'; \
	"$$directory/bin/python" -m pip uninstall --quiet --yes pbft; \
	{ echo "# Made by \`make lock\` from pyproject.toml; installed by every other target."; \
	"$$directory/bin/python" -m pip freeze; } > "$$directory/requirements.lock"; \
	cp "$$directory/requirements.lock" requirements.lock
	@echo "requirements.lock holds $$(grep -c == requirements.lock) packages"

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants.run $(MUTANTS)

sim: $(INSTALLED)
	$(BIN)/pbft sim --seeds $(SEEDS) --replicas $(REPLICAS)

bench: $(INSTALLED)
	$(BIN)/python -m bench.measure

bench-etcd: $(INSTALLED)
	$(BIN)/python -m bench.compare_etcd

chaos: $(INSTALLED)
	$(BIN)/python -m tests.process.chaos

durability: $(INSTALLED)
	$(BIN)/python -m tests.process.durability

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .coverage*
