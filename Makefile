# Two commands set everything up on a fresh machine: `make run` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPING := $(VENV)/.developing
PORT ?= 7777

.PHONY: run test check coverage prove canary format bench docs setup clean bytecode

run: $(INSTALLED) bytecode  ## serve, and replay a notebook with plots against it (ONCE=1 ends after that)
	@$(BIN)/python scripts/demo.py --port $(PORT) $(if $(ONCE),--once)

test: $(DEVELOPING) bytecode  ## every test (ARGS='tests/cli -k token' for some)
	$(BIN)/python scripts/run_tests.py $(ARGS)

check: $(DEVELOPING)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(DEVELOPING)  ## which lines and branches the tests reach, kernels and children included
	$(BIN)/python scripts/measure_coverage.py $(ARGS)

# The word behind `prove` names what to prove; it is no target of its own.
ifeq (prove,$(firstword $(MAKECMDGOALS)))
NAME := $(word 2,$(MAKECMDGOALS))
$(if $(NAME),$(eval $(NAME):;@:))
endif

prove: $(DEVELOPING)  ## what takes long to prove: `make prove` lists it, `make prove NAME SEED=2` runs one
	$(BIN)/python -m prove $(NAME) $(if $(SEED),--seed $(SEED))

canary:  ## kernel and protocol tests with the newest release of everything, in .canary
	@PYTHON="$(PYTHON)" VENV=.canary sh scripts/setup.sh
	@.canary/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,rich-tests]'
	@.canary/bin/python scripts/canary.py $(ARGS)

format: $(DEVELOPING)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEVELOPING)  ## speed and memory as ratios against what one would use instead
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m bench

docs: $(DEVELOPING)  ## write what is generated: pages of the documentation, the synchronous client
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/make_sync_client.py

setup: $(INSTALLED) bytecode

# Where PYTHONDONTWRITEBYTECODE is set, or the files belong to somebody else, every start of the
# service and of a kernel would compile everything anew.
bytecode: $(INSTALLED)
	-@$(BIN)/python -m compileall -q -x node_modules kernelagent kernels tests

$(INSTALLED): pyproject.toml scripts/setup.sh scripts/languages.sh kernels/javascript/package-lock.json
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $@

$(DEVELOPING): $(INSTALLED) scripts/test-packages.sh tests/clients/javascript/package-lock.json
	@echo "Installing what the checks and tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,rich-tests,clients]'
	@VENV="$(VENV)" sh scripts/test-packages.sh
	@touch $@

clean:
	rm -rf $(VENV) .canary out dist build .mypy_cache .ruff_cache .pytest_cache
