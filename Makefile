# Everything a newcomer needs: `make compare`. Everything a developer needs: `make test`.
PYTHON ?= python3
OUT ?= out/compare
PIP = .venv/bin/pip --disable-pip-version-check --quiet
SOURCES = pyproject.toml constraints.txt

.PHONY: compare test bench clean

compare: .venv/core-installed  ## install if need be, run the default comparison, say where its results are
	.venv/bin/rolloutbench compare --jobs 2 --out $(OUT) --overwrite
	.venv/bin/rolloutbench report $(OUT)

test: .venv/test-installed  ## lint, types, tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -n 2 --quiet

bench: .venv/test-installed  ## speed of solvers, predictors, simulator and store
	.venv/bin/python -m pytest tests/benchmarks --benchmark-only --quiet

clean:
	rm -rf .venv out build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core-installed: $(SOURCES) | .venv/bin/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

.venv/test-installed: $(SOURCES) | .venv/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/core-installed
