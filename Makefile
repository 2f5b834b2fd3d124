# The project's targets. Each needs no more than Python 3.11 or later; what else it takes is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.NOTPARALLEL:
.PHONY: help demo test test-all test-programs check docs bench scorecard clean lint imports types docstrings doctests eager package

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.package  ## segment a generated smear; see demo/report.html
	$(BIN)/tiledseg demo

test: $(VENV)/.dev  ## run the tests that take seconds, and the examples in docstrings
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: $(VENV)/.dev  ## run all tests, the slow ones too
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

test-programs: $(VENV)-programs/.programs  ## run the examples, and the plugin in napari (xvfb-run where there is no display)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(if $(DISPLAY),,xvfb-run -a) $(VENV)-programs/bin/python -m pytest -m "" \
		tests/test_examples.py tests/test_napari.py

check: lint imports types docstrings doctests eager package  ## run every gate but the tests

docs: $(VENV)/.docs  ## build the documentation; see docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench  ## measure, side by side with other libraries
	$(BIN)/python -m benchmarks

scorecard: $(VENV)/.dev $(VENV)/.scorecard  ## measure what is survived: kills, damage, hostile files
	$(BIN)/python -m benchmarks.scorecard

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(VENV)-programs build dist demo docs/_build docs/api docs/examples .*_cache .hypothesis

# The gates, one by one.

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.check_types

docstrings: $(VENV)/.dev
	$(BIN)/python tests/check_docstrings.py

doctests: $(VENV)/.dev
	$(BIN)/python -m pytest --quiet tiledseg

eager: $(VENV)/.dev  # lazy loading hides a name that cannot be imported; this imports every one
	EAGER_IMPORT=1 $(BIN)/python -c "import tiledseg"

package: $(VENV)/.dev
	$(BIN)/python tests/check_package.py

# A stamp per set of dependencies, so that an up-to-date environment is left alone.

$(VENV)/.package: pyproject.toml tiledseg/_version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools  # those that Python brings have known faults
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m compileall -q tiledseg  # as pip does for what it copies; else the first command does it
	touch $@

$(VENV)-programs/.programs: pyproject.toml  # of its own: Qt, and pins of MLflow and Snakemake
	$(PYTHON) -m venv $(VENV)-programs
	$(VENV)-programs/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-programs/bin/python -m pip install --quiet --editable . --group programs
	touch $@

$(VENV)/.%: $(VENV)/.package
	$(BIN)/python -m pip install --quiet --group $*
	touch $@
