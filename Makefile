# Everything sets itself up: a virtual environment in .venv, filled with what the target needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process a core and a thread a process: most of what is computed here is too small for two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
# Python 3.10 where there is one: the oldest that setup.cfg claims.
OLDEST_PYTHON ?= $(firstword $(foreach python,python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python),\
	$(if $(shell $(python) --version 2>/dev/null),$(python))) $(PYTHON))
OLDEST ?= .venv-oldest
OLDEST_TESTS := tests/callbacks tests/capture tests/core tests/history tests/instruments tests/levers tests/losses \
	tests/metrics

.PHONY: demo reproduce test quick oldest check format docs benchmarks compatibility clean

demo: $(VENV)/.demo  ## Train the token table in front of your eyes: make demo ARGS="--optimizer adamw"
	$(BIN)/normdyn demo $(ARGS)

reproduce: $(VENV)/.demo  ## Run the published figures' experiments: make reproduce ARGS="--only frequency_law"
	$(BIN)/normdyn reproduce $(ARGS)

test: check  ## Everything that must hold
	$(PYTEST) $(ARGS)

quick: check  ## The same without the slow tests
	$(PYTEST) -m "not slow and not exhaustive" $(ARGS)

oldest: $(OLDEST)/.oldest  ## Quick tests of what training needs, under the oldest versions that setup.cfg claims
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		-p no:cacheprovider -m "not slow and not exhaustive" $(OLDEST_TESTS) $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs  ## The documentation, offline, into docs/_build/html; its examples run, and warnings are errors
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/large_tables.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/forecasts.py
	$(BIN)/python benchmarks/search.py

compatibility: $(VENV)/.test  ## Rows of docs/evidence/compatibility.md, for the libraries that are installed
	COMPATIBILITY_PAGE=docs/evidence/compatibility.md OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/compatibility $(ARGS)

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.venv setup.cfg pyproject.toml
	@echo "Installing torch, Lightning and matplotlib into $(VENV): a few minutes, once."
	$(PIP) --editable ".[cli,report]"
	touch $@

$(VENV)/.docs: $(VENV)/.venv setup.cfg pyproject.toml
	@echo "Installing every extra and the documentation's tools into $(VENV): a few minutes, once."
	$(PIP) --editable ".[all,docs]"
	touch $@ $(VENV)/.demo

$(VENV)/.test: $(VENV)/.venv setup.cfg pyproject.toml
	@echo "Installing every extra, the test tools and the documentation's into $(VENV): a few minutes, once."
	$(PIP) --editable ".[all,test,docs]"
	touch $@ $(VENV)/.demo $(VENV)/.docs

$(OLDEST)/.oldest: .ci/oldest.txt setup.cfg pyproject.toml
	@echo "Installing the oldest versions of everything into $(OLDEST): a few minutes, once."
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint .ci/oldest.txt \
		--editable ".[all,faiss]" hypothesis lightning pytest pytest-xdist
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -rf docs/_build docs/api docs/gallery
