# Needs only make and a python3 (3.11 to 3.13, with venv); `make help` lists the targets.
# Everything is installed into .venv, at the versions in requirements.lock.

PYTHON ?= python3
# Another stack beside it: make test-fast PYTHON=python3.12 VENV=.venv-3.12
VENV := .venv
UV_PIN := 0.13.9

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo smoke test test-fast lint format soak evidence paper benchmarks accelerator peers real-weights lock clean

# The caller's pip and uv settings may say how packages are fetched; they must not say
# which packages, nor where they go. An active virtual environment must not say either.
FETCH := PIP_CONFIG_FILE PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX \
  PIP_TRUSTED_HOST PIP_CERT PIP_CLIENT_CERT PIP_PROXY PIP_KEYRING_PROVIDER PIP_TIMEOUT \
  PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_CACHE_DIR PIP_NO_CACHE_DIR \
  UV_CONFIG_FILE UV_DEFAULT_INDEX UV_INDEX% UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_NO_INDEX \
  UV_INSECURE_HOST UV_NATIVE_TLS UV_SYSTEM_CERTS UV_KEYRING_PROVIDER UV_HTTP_% \
  UV_OFFLINE UV_CACHE_DIR UV_NO_CACHE UV_LINK_MODE UV_CONCURRENT_%
unexport $(filter-out $(FETCH),$(filter PIP_% UV_%,$(.VARIABLES)))
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH

# uv does not read pip's settings: hand it the mirror that pip was given.
ifdef PIP_INDEX_URL
ifeq ($(UV_DEFAULT_INDEX)$(UV_INDEX_URL),)
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
endif
# The lock holds wheels of hundreds of megabytes; 30 s without a byte is too strict.
export UV_HTTP_TIMEOUT ?= 300

UV := $(VENV)/bin/uv
PEERS := .venv-peers
# Written last, so an interrupted set-up leaves none. It holds the place it was made for:
# the scripts in .venv name it, so a moved or copied checkout needs a set-up of its own.
READY := $(VENV)/.ready
ifneq ("$(shell cat $(READY) 2>/dev/null)","$(CURDIR)")
.PHONY: $(READY)
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# TensorFlow, which gemma needs, has no wheels for Python 3.14 yet.
define fresh_venv
@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
  echo 'error: $(PYTHON) is not a Python 3.11, 3.12 or 3.13; name one that is: make PYTHON=python3.12' >&2; exit 1; }
@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
  echo 'error: $(PYTHON) cannot make virtual environments; install its venv module (Debian: apt install python3-venv)' >&2; exit 1; }
@echo 'Making $(VENV) (fills about 3 GB of disk; a first set-up downloads for a while)'
@rm -rf $(VENV)
@'$(PYTHON)' -m venv $(VENV)
@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_PIN)
endef

setup: $(READY) ## make .venv (the other targets do so by themselves)

$(READY): requirements.lock setup.py
	$(fresh_venv)
	@$(UV) pip install --quiet --python $(VENV)/bin/python -r requirements.lock
	@$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps -e .
	@pwd -P > $@

demo: $(READY) ## run a whole small experiment; ends in runs/demo/report/index.html
	$(VENV)/bin/pav run --config=experiments/demo.py --workdir=runs/demo

smoke: $(READY) ## run the same stages at the smallest size
	$(VENV)/bin/pav run --config=experiments/demo.py:smoke --workdir=runs/smoke

# A file of tests goes to one process: tests of a file share what is slow to make. In the
# order of names, since files of few tests have the slow ones, and should not come last.
# One process more than there are cores, since some tests wait for others' processes.
CORES = $(shell $(VENV)/bin/python -c 'import os; print(os.cpu_count() or 1)')
PYTEST = $(VENV)/bin/python -m pytest --numprocesses=$$(($(CORES) + 1)) --maxprocesses=5 \
  --dist=loadfile --no-loadscope-reorder

test: lint ## lint, then all tests
	$(PYTEST)

test-fast: $(READY) ## the tests that are not marked slow; TESTS=tests/rl: only those
	$(PYTEST) -m 'not slow' $(TESTS)

lint: $(READY) ## check style and format
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

format: $(READY) ## mend what the linter can mend, and format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

soak: $(READY) ## kill small runs a hundred times, and fuzz the grader; an hour on 2 cores
	$(VENV)/bin/python -m pytest --fuzzed=10000 -s -k fuzzed_answers_of_math \
	  tests/reliability/test_attack_surface.py
	$(VENV)/bin/python tests/reliability/soak.py

evidence: $(READY) ## run what docs/evidence.md rests on, some hours; ONLY=tree runs one
	$(VENV)/bin/python launch/evidence.py --tables=docs/evidence $(ONLY)

paper: $(READY) ## run the paper's figures, and write docs/paper.md; ONLY=fig10_prediction runs one
	$(VENV)/bin/python launch/evidence.py --configs=experiments/paper --page=docs/paper.md $(ONLY)

# With the peers where they are installed, else without them.
benchmarks: $(READY) ## measure what matters against what a user would pick instead
	$(if $(wildcard $(PEERS)),$(PEERS),$(VENV))/bin/python -m benchmarks

accelerator: $(READY) ## measure the hot paths on the GPU or TPU that jax sees
	$(VENV)/bin/python -m benchmarks.accelerator

# By uv, which made the lock: pip refuses a pin whose upper bound of Python uv ignores.
peers: $(READY) ## install what `make benchmarks` compares with, in .venv-peers
	@rm -rf $(PEERS)
	@$(UV) venv --quiet --python $(VENV)/bin/python $(PEERS)
	@grep -Ev '^(safetensors|python-dateutil|kubernetes)==' requirements.lock > $(PEERS)/lock.txt
	@$(UV) pip install --quiet --python $(PEERS)/bin/python \
	  $(if $(PIP_FIND_LINKS),--find-links '$(PIP_FIND_LINKS)') \
	  -r $(PEERS)/lock.txt -r benchmarks/peers.txt

real-weights: $(READY) ## fetch Gemma 3 270M, under Gemma's terms, into checkpoints/
	$(VENV)/bin/python launch/real_weights.py

$(UV):
	$(fresh_venv)

lock: $(UV) ## renew requirements.lock; keeps its pins, or takes the newest with UPGRADE=1
	$(UV) pip compile setup.py --python $(VENV)/bin/python --universal --python-version 3.11 --extra dev \
	  --quiet --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) -o requirements.lock

clean: ## remove .venv and its like, caches and build products; keeps runs/ and checkpoints/
	rm -rf .venv .venv-* .pytest_cache .ruff_cache build dist pav_jax.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
