# Needs make and Python 3.11 or newer; everything else goes into .venv.
#   make test PYTHON=python3.13         another interpreter (after `make clean`)
#   make test ARGS="-n 0 -k lane -x"    more arguments for pytest (here: no parallel runs), bench or the demo
#   make demo BROKER=redis              on a Redis server of its own

PYTHON ?= python3
ARGS ?=
BROKER ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/dev $(VENV)/bench $(VENV)/docs
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

# An environment knows the place it was made in; one that came along with a copied checkout is made anew.
HOME_OF_VENV := $(VENV)/made-in
ifneq ($(shell cat $(HOME_OF_VENV) 2>/dev/null),$(CURDIR))
.PHONY: $(PY) $(STAMPS)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-all lint format bench bench-peers servers browser docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/dev $(if $(filter redis,$(BROKER)),servers)  ## run the demonstration
	PATH="$$PATH:$(CURDIR)/.servers/redis" $(PY) examples/stdlib/demo.py $(if $(BROKER),--broker $(BROKER)) $(ARGS)

# Hundreds of times a test starts a Python, which takes half as long with modules that are compiled.
test test-long test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(VENV)/dev servers browser  ## run the tests, except the long ones
	$(PY) -m pytest -n auto $(ARGS)

test-long: $(VENV)/dev servers  ## run the long tests (soaks)
	$(PY) -m pytest -m long --timeout 3600 $(ARGS)

test-all: servers browser  ## run the tests on every Python from 3.11 on that is found here
	$(PYTHON) scripts/test_all.py $(ARGS)

lint: $(VENV)/dev  ## check style, types, layers and the Dockerfile
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m mypy examples
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/dev  ## format the code and fix what can be fixed
	$(PY) -m ruff check --fix-only
	$(PY) -m ruff format

bench: $(VENV)/bench servers  ## measure the speed
	$(PY) -m bench $(ARGS)

bench-peers: $(VENV)/bench servers  ## measure other task queues beside it
	$(PY) -m bench.peers $(ARGS)

servers: $(PY)  ## get the servers that tests and bench run, into .servers/
	@$(PY) scripts/install_redis.py

browser: $(PY)  ## get the browser that tests open pages in, into .servers/
	@$(PY) scripts/install_browser.py

# (The variable silences a notice that the theme will have a successor.)
docs: $(VENV)/docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean:  ## remove everything that these targets make
	rm -rf $(VENV) .venvs .servers .bench build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "taskyard needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "Name another one, for example: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12"; exit 1; } >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "$(CURDIR)" > $(HOME_OF_VENV)

# One file per set of requirements, as old as its last installation.
$(STAMPS): pyproject.toml | $(PY)
	$(PIP_INSTALL) --editable '.[$(@F)]'
	@touch $@
