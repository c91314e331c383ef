# Everything a person or CI needs. Each target does its own set-up, says what it does, and does nothing that is done already.
#   PYTHON=python3.12 make test     with another interpreter (3.11 or 3.12)
#   make test ARGS="-k identity"    arguments for pytest (-n 0: one test after the other)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.NOTPARALLEL:  # measuring wants the machine for itself

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.12 python3.11; do if $$p -c '$(SUPPORTED)' 2>/dev/null; then echo $$p; break; fi; done)
endif
PYTHON_VERSION := $(shell $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null && $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

VENV ?= .venv
BIN := $(VENV)/bin
UV := .tools/uv/bin/uv
LOCKS := operator/burnish/toolchains/locks
ARGS ?=
# Workers of pytest-xdist: for tests that compute, and for those that wait most of the time. Tests marked `alone` measure, and get the machine for themselves.
# `--dist loadfile`: a file's tests stay in one worker, with what is made once for all of them. (`loadgroup` of pytest-xdist 3.8 groups nothing on pytest 9.2.)
COMPUTES = -n 2
WAITS = -n 3
# One cluster each: these wait for pods more than they work.
CLUSTERS = -n 2 --dist loadfile
# make demo: only what the command line says; an environment's CONTEXT is nobody's intent.
MODELS = digits
CONTEXT =
IMAGES =
S3 =
ON_CONTEXT = $(if $(CONTEXT),--context '$(CONTEXT)' --images '$(IMAGES)' --s3 '$(S3)')

# The data of these is not ours to commit: it is taken from packages, in an environment of its own.
EXAMPLES := $(patsubst examples/%/make.py,%,$(wildcard examples/ocr/make.py examples/magika/make.py))
# Only the long tests and the benchmarks need these: a large download, and a minute's training in Burnish's own environment for PyTorch.
LONG_EXAMPLES := minilm resnet
MADE = $(1:%=examples/.work/%/.made)

# Who points pip at another index means uv too.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# uv trusts the certificates that this machine trusts, a company's own included.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= true
endif

.PHONY: help install dev toolchains demo demo-down test test-long test-py312 verify generate bench matrix examples lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed ## Make .venv/bin/burnish from the hashed locks

demo: install $(call MADE,$(filter $(EXAMPLES) $(LONG_EXAMPLES),$(MODELS))) ## A Kubernetes on this machine, Burnish in it, a model served (root, Go; MODELS="digits ocr magika": more; CONTEXT=name: on that cluster)
	@$(BIN)/python e2e/demo.py up --models $(MODELS) $(ON_CONTEXT)

demo-down: install ## End the demo's cluster and remove every trace of it (CONTEXT=name: what the demo made there)
	@$(BIN)/python e2e/demo.py down $(ON_CONTEXT)

test: dev verify toolchains $(call MADE,$(EXAMPLES)) ## Every behaviour once: unit, golden, charts, a real apiserver, the pipeline, a real cluster, in this order
	$(BIN)/pytest $(COMPUTES) -m "not long" --durations=10 $(ARGS) tests/unit tests/golden
	e2e/cluster/cluster build
	$(BIN)/pytest $(WAITS) -m "not long" --durations=10 $(ARGS) tests/charts tests/cluster tests/integration
	$(BIN)/pytest $(COMPUTES) --dist loadfile -m "not long and not alone" --durations=10 $(ARGS) tests/pipeline
	$(BIN)/pytest -m "not long and alone" --durations=10 $(ARGS) tests/pipeline
	$(BIN)/pytest $(CLUSTERS) -m "not long" --durations=10 -v $(ARGS) e2e/tests

test-long: dev toolchains examples ## The tests that take minutes, then the unit tests on Python 3.12
	$(BIN)/pytest $(WAITS) --dist loadfile -m "long and not alone" --durations=10 $(ARGS) tests
	$(BIN)/pytest -m "long and alone" --durations=10 $(ARGS) tests
	$(BIN)/pytest $(CLUSTERS) -m long --durations=10 -v $(ARGS) e2e/tests
	@$(MAKE) test-py312

test-py312: $(UV) ## The unit tests on Python 3.12, if this machine has one
	@if python=$$($(UV) python find --no-python-downloads --no-project --system 3.12 2>/dev/null || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12.*/bin/python3.12 2>/dev/null | tail -1) && [ -n "$$python" ]; then \
	  $(MAKE) dev PYTHON="$$python" VENV=.tools/venv-3.12; \
	  .tools/venv-3.12/bin/pytest $(COMPUTES) -m "not long" $(ARGS) tests/unit; \
	else echo "test-py312: SKIPPED, there is no Python 3.12 on this machine: nothing was tested on it"; fi

verify: dev ## Format, lint, types, layers, and that nothing generated has drifted
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/burnish crd --check .

generate: install ## Write what is generated from the models: the CRD, docs/reference.md, docs/reasons.md
	$(BIN)/burnish crd --write .

bench: dev toolchains examples ## Measure the claims of docs/benchmarks.md and write it; takes long (ARGS=--quick: minutes, writes nothing)
	@set -- $(wildcard tests/benchmarks/bench_*.py); [ $$# -gt 0 ] || { echo "bench: there is no tests/benchmarks/bench_*.py" >&2; exit 1; }; \
	for script; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done; $(BIN)/python tests/benchmarks/render.py

matrix: dev toolchains examples ## Run every source format on every runtime and write docs/matrix.md; takes minutes
	$(BIN)/pytest -m long --durations=10 $(ARGS) tests/pipeline/test_matrix.py

clean: ## Remove what these targets made here (not the caches in your home directory)
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist examples/.work tests/benchmarks/.work

# --- set-up -----------------------------------------------------------------------------------------------------------------------------

.tools/system-$(PYTHON_VERSION): requirements/system.sh
	@if [ -z "$(PYTHON_VERSION)" ]; then \
	  echo "Burnish needs Python 3.11 or 3.12$(if $(PYTHON), and $(PYTHON) is neither). Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi
	@requirements/system.sh $(PYTHON)
	@mkdir -p $(@D) && touch $@

$(UV): requirements/uv.txt | .tools/system-$(PYTHON_VERSION)
	@echo "install: fetching uv into .tools/ with pip"
	@rm -rf .tools/uv
	@pip=$(PYTHON); $$pip -m pip --version >/dev/null 2>&1 || pip=/usr/bin/python3; \
	$$pip -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --require-hashes --no-deps --target .tools/uv -r $<
	@touch $@

# An environment of the right Python is kept, whoever made it; one of another Python is replaced.
$(VENV)/.python-$(PYTHON_VERSION): | $(UV)
	@if ! $(BIN)/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(PYTHON_VERSION)")' 2>/dev/null; then \
	  echo "install: making the virtual environment $(VENV) with Python $(PYTHON_VERSION)"; \
	  $(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); fi
	@touch $@

$(VENV)/.installed: requirements/burnish.txt requirements/uv.txt requirements/build.txt pyproject.toml | $(VENV)/.python-$(PYTHON_VERSION)
	@echo "install: installing Burnish into $(VENV)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/burnish.txt -r requirements/uv.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --build-constraints requirements/build.txt --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.installed
	@echo "install: installing what tests and checks need into $(VENV)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

dev: $(VENV)/.dev ## What tests and checks need, in .venv

toolchains: install ## The environments in which steps and the server run, in your cache directory
	@$(BIN)/burnish toolchain install

examples: $(call MADE,$(EXAMPLES) $(LONG_EXAMPLES)) ## Make the data of the examples that aren't committed: ocr, magika, minilm, resnet

examples/.work/resnet/.made: examples/resnet/make.py | install
	@echo "examples: making resnet (a minute's training)"
	@$$($(BIN)/burnish toolchain install torch | sed 's/^torch: \(.*\)  (.*/\1/')/bin/python $< --out $(@D)
	@touch $@

examples/.work/%/.made: examples/%/make.py examples/%/requirements.txt | $(UV)
	@echo "examples: making $*"
	@$(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .tools/examples/$*
	@$(UV) pip install --quiet --python .tools/examples/$*/bin/python --no-deps --require-hashes -r examples/$*/requirements.txt
	@.tools/examples/$*/bin/python $< --out $(@D)
	@touch $@

# --- locks ------------------------------------------------------------------------------------------------------------------------------

COMPILE = $(UV) pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links $(UPGRADE)

# dev.txt is compiled first and constrains the others: what is tested is what users get.
lock: $(UV) ## Compile the hashed locks again (UPGRADE=--upgrade: to the newest versions)
	$(COMPILE) pyproject.toml --extra controller --extra s3 --extra gs --extra onnx --extra dev --excludes $(LOCKS)/onnx-excludes.txt -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra controller --extra s3 --extra gs -c requirements/dev.txt -o requirements/burnish.txt
	$(COMPILE) pyproject.toml --extra onnx --extra openvino --excludes $(LOCKS)/onnx-excludes.txt -c requirements/dev.txt -o $(LOCKS)/onnx.txt
	$(COMPILE) pyproject.toml --extra torch -c requirements/dev.txt --excludes $(LOCKS)/torch-excludes.txt -o $(LOCKS)/torch.txt
	$(COMPILE) pyproject.toml --extra tensorflow -c requirements/dev.txt --excludes $(LOCKS)/tensorflow-excludes.txt -o $(LOCKS)/tensorflow.txt
	$(COMPILE) $(LOCKS)/triton.in --excludes $(LOCKS)/triton-excludes.txt -o $(LOCKS)/triton.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
