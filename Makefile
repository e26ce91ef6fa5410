# Everything a newcomer needs: `make compare`. Everything a developer needs: `make test`.
PYTHON ?= python3
OUT ?= out/compare
PIP = .venv/bin/pip --disable-pip-version-check --quiet
SOURCES = pyproject.toml constraints.txt

.PHONY: compare train-demo figures test test-vllm bench clean

compare: .venv/core-installed  ## install if need be, run the default comparison, say where its results are
	.venv/bin/rolloutbench compare --jobs 2 --out $(OUT) --overwrite
	.venv/bin/rolloutbench report $(OUT)

train-demo: .venv/llm-installed  ## train a tiny language model with three allocators, on a CPU
	.venv/bin/rolloutbench train real_runs/demo.toml --device cpu --jobs 2 --out out/train-demo --overwrite
	@echo "held-out accuracy against generated rollouts: out/train-demo/plots/accuracy_over_rollouts.png"

figures: .venv/core-installed  ## redraw all papers' figures from the recorded studies, and put their claims to the test
	.venv/bin/rolloutbench figures --quick --out out/figures
	.venv/bin/rolloutbench claims --quick --out out/figures
	@echo "all figures on one page: out/figures/README.md"

test: .venv/test-installed  ## lint, types, tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -n 2 --quiet

test-vllm: .venv-vllm/installed  ## the vLLM engine, on a CPU, in an environment of its own; compiling would take longer
	TORCHDYNAMO_DISABLE=1 .venv-vllm/bin/python -m pytest tests/vllm_engine --quiet

bench: .venv/test-installed  ## speed of solvers, predictors, simulator and store
	.venv/bin/python -m pytest tests/benchmarks --benchmark-only --quiet

clean:
	rm -rf .venv .venv-vllm out build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core-installed: $(SOURCES) | .venv/bin/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

.venv/llm-installed: $(SOURCES) | .venv/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[llm]'
	touch $@ .venv/core-installed

.venv/test-installed: $(SOURCES) | .venv/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/core-installed .venv/llm-installed

.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip --disable-pip-version-check --quiet install --no-deps --requirement constraints-vllm.txt --editable .
	touch $@
