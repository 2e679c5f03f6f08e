# Everything a developer runs. `make help` lists it. The first run of any goal makes .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo check lint types format test test-quick test-others browser crash soak bench fuzz clean

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The other versions the tests run on, where such an interpreter is there.
OTHERS := 3.12 3.13
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## the virtual environment in .venv, with everything in it

# The environment is brought up to date only when pyproject.toml is newer than the stamp. One that
# was moved or whose interpreter is gone cannot run and is made anew.
$(STAMP): pyproject.toml
	@$(PYTHON) -c '' 2>/dev/null || { \
	    python=$$(tools/find-python); echo "making $(VENV) with $$python"; \
	    rm -rf $(VENV); "$$python" -m venv $(VENV); }
	@echo "installing perdure and its tools into $(VENV)"
	@$(PYTHON) $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## serve examples/counter.py on http://127.0.0.1:7373
	@echo
	@echo "A counter that never forgets. In another terminal:"
	@echo
	@echo "    curl -d '{\"by\": 2}' http://127.0.0.1:7373/Counter/lobby/increment"
	@echo "    curl http://127.0.0.1:7373/Counter/lobby/read"
	@echo
	@echo "Stop it as hard as you like, run 'make demo' again, and read once more."
	@echo
	@exec $(VENV)/bin/perdure dev examples/counter.py

check: lint types ## ruff, mypy and pyright

lint: $(STAMP)
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .

types: $(STAMP)
	@$(VENV)/bin/mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright

format: $(STAMP) ## let ruff lay out the code, sort imports and mend what it can
	@$(VENV)/bin/ruff check --quiet --fix .
	@$(VENV)/bin/ruff format --quiet .

# Tests of real processes may lose a race on a machine that is busy with something else. They are
# tried once more, by themselves; what fails twice has failed.
AGAIN := --last-failed --last-failed-no-failures none
# A process for each core: most tests wait for a disk or for a process of their own.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadscope

test: check browser ## everything but the soak, on each Python version that is here
	@$(PYTHON) -m pytest $(SIDE_BY_SIDE) || { echo "once more, those that failed"; $(PYTHON) -m pytest $(AGAIN); }
	@$(MAKE) --no-print-directory test-others

browser: $(STAMP) ## what the tests in a browser need: Chromium and some packages of npm
	@tools/install-browser

test-quick: $(STAMP) ## the tests without the slow ones and those that kill processes
	@$(PYTHON) -m pytest $(SIDE_BY_SIDE) -m 'not slow and not crash and not soak'

# A reduced selection: what differs between versions is the interpreter, not the disk.
test-others:
	@failed=; for version in $(OTHERS); do \
	    python=$$(tools/find-python $$version) || { echo "no Python $$version here: left out"; continue; }; \
	    venv=$(VENV)-$$version; \
	    if ! [ $$venv/.installed -nt pyproject.toml ] || ! $$venv/bin/python -c '' 2>/dev/null; then \
	        echo "making $$venv with $$python"; \
	        rm -rf $$venv; "$$python" -m venv $$venv; \
	        $$venv/bin/python $(PIP_INSTALL) --editable '.[test]'; \
	        touch $$venv/.installed; \
	    fi; \
	    echo "tests on Python $$version"; \
	    $$venv/bin/python -m pytest -q $(SIDE_BY_SIDE) -m 'not slow and not crash and not soak' || \
	        $$venv/bin/python -m pytest -q -m 'not slow and not crash and not soak' $(AGAIN) || \
	        failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "failed on Python$$failed" >&2; exit 1; }

crash: $(STAMP) ## the tests that kill real processes
	@PERDURE_KILLS=200 $(PYTHON) -m pytest -m crash

soak: $(STAMP) ## the long ones: minutes to hours, not part of `make test`
	@$(PYTHON) -m pytest -m soak --timeout 0

fuzz: $(STAMP) ## suspended code, codecs, stores and arguments with many more random examples
	@$(PYTHON) -m tests.suspend.fuzz --suspensions 100000
	@for version in $(OTHERS); do \
	    if [ -x $(VENV)-$$version/bin/python ]; then \
	        $(VENV)-$$version/bin/python -m tests.suspend.fuzz --suspensions 100000 || exit 1; \
	    fi; \
	done
	@HYPOTHESIS_PROFILE=fuzz $(PYTHON) -m pytest -m 'not slow and not crash and not soak' --timeout 0

bench: $(STAMP) ## throughput, latency and memory, each next to its yardstick
	@$(PYTHON) -m benchmarks

clean: ## remove environments and caches; data in .perdure stays
	@rm -rf $(VENV) $(addprefix $(VENV)-,$(OTHERS)) .mypy_cache .ruff_cache .pytest_cache .hypothesis
