# make demo | test | check | bench | clean. Each creates its own environment in .venv on first use; nothing is
# installed anywhere else. Another Python: make PYTHON=python3.12 test. A part: make bench ARGS='decode --quick'

PYTHON ?= python3
PACKAGES := ledger transports projections tests $(if $(wildcard benchmarks/*.py),benchmarks)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

# The environment holds what the lock holds: neither a foreign PYTHONPATH nor a check for newer tools over the network.
# What was compiled is kept: tests start hundreds of processes, and each would compile every module of ours again. What is
# never imported is not compiled: of the libraries that is most.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PYRIGHT_PYTHON_FORCE_VERSION PYRIGHT_PYTHON_PYLANCE_VERSION
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := 0

.PHONY: help demo test check bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,2s/^# //p' Makefile

demo: .venv/project
	@$(BIN)/accountledger demo

test: .venv/project
	@echo "test: pytest, three at a time"
	@$(BIN)/python -m pytest -n 3 --dist worksteal -m "not clock"
	@echo "test: pytest, what waits for the clock, two at a time"
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m clock

check: .venv/project
	@echo "check: ruff format"
	@$(BIN)/ruff format --check $(PACKAGES)
	@echo "check: ruff"
	@$(BIN)/ruff check $(PACKAGES)
	@echo "check: mypy --strict and pyright, side by side"
	@$(BIN)/python -m mypy --strict $(PACKAGES) & mypy=$$!; \
	    $(BIN)/python -m pyright --pythonpath $(BIN)/python $(PACKAGES); pyright=$$?; \
	    wait $$mypy && exit $$pyright
	@echo "check: import contracts"
	@$(BIN)/lint-imports --no-logo

bench: .venv/project
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	@echo "clean: .venv, caches and builds"
	@rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(wildcard $(PACKAGES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps, each written last, so that a half-made environment is made again: the locked libraries, then the project.
.venv/libraries: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: accountledger needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "environment: .venv with $$($(PYTHON) --version) and the libraries of requirements.lock (once, about a minute)"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	    echo "make: no virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install --no-compile --require-hashes --requirement requirements.lock
	@touch $@

.venv/project: .venv/libraries pyproject.toml
	@echo "environment: accountledger itself"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
