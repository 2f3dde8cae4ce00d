# Everything sets itself up: a virtual environment in .venv, filled with what the target needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process a core and a thread a process: most of what is computed here is too small for two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=

.PHONY: demo reproduce test quick check format benchmarks clean

demo: $(VENV)/.demo  ## Train the token table in front of your eyes: make demo ARGS="--optimizer adamw"
	$(BIN)/normdyn demo $(ARGS)

reproduce: $(VENV)/.demo  ## Run the published figures' experiments: make reproduce ARGS="--only frequency_law"
	$(BIN)/normdyn reproduce $(ARGS)

test: check  ## Everything that must hold
	$(PYTEST) $(ARGS)

quick: check  ## The same without the slow tests
	$(PYTEST) -m "not slow" $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/forecasts.py
	$(BIN)/python benchmarks/search.py

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.venv setup.cfg pyproject.toml
	@echo "Installing torch, Lightning and matplotlib into $(VENV): a few minutes, once."
	$(PIP) --editable ".[cli,report]"
	touch $@

$(VENV)/.test: $(VENV)/.venv setup.cfg pyproject.toml
	@echo "Installing every extra and the test tools into $(VENV): a few minutes, once."
	$(PIP) --editable ".[all,test]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
