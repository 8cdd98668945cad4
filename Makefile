# The two commands: `make demo` evaluates a method, `make test` passes the suite. Both make .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test test-slow regress lint lock clean

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	# The dense CRF is compiled on the spot: without a C++ compiler all else still works.
	-$(BIN)/python -m pip install --quiet --no-deps pydensecrf2==1.1 || echo 'no dense CRF: it needs a C++ compiler'
	touch $@

demo: $(READY)
	$(BIN)/ovseg evaluate --config configs/experiments/clip_diy_miniature.yaml --save_overlays 4

test: $(READY) lint
	$(BIN)/python -m pytest

regress: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/ovseg regress configs/regression/miniature.yaml

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Resolve the ranges of pyproject.toml anew and pin what comes out, without installing it. opencv-python is left out: it
# and the headless build, which needs no system libraries, would overwrite each other.
lock: $(READY)
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report lock.json setuptools wheel '.[dev]'
	$(BIN)/python -c "import json; print(*sorted((f'{d[\"name\"]}=={d[\"version\"]}' for d in (i['metadata'] for i in json.load(open('lock.json'))['install']) if d['name'] not in ('ovseg', 'opencv-python')), key=str.lower), sep='\n')" > requirements.lock
	rm -rf lock.json

clean:
	rm -rf $(VENV) build *.egg-info
