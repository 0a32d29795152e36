# make demo    the whole job in the sandbox; ONCE=1: exit after the last answer; WEIGHTS=imagenet or a file: real weights
# make test    lint, formatting, types and tests
# make quick   the tests that matter for a change, for about a minute
# make setup   only the virtual environment; GPU=1: with TensorFlow for NVIDIA GPUs
# make lint    lint, formatting, types, Dockerfile, secrets, advisories
# make unit    all tests
# make audit   the advisories, with a failure where they cannot be reached
# make sbom    write a CycloneDX list of the installed packages: dokocos.cdx.json
# make lock    write the lock files after a change to pyproject.toml (needs uv); RAISE=NAME raises one package
# make clean   remove the virtual environment and all caches
# make help    this list

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
    $(python) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && echo $(python))))
LOCK := $(if $(GPU),requirements-gpu.lock,requirements.lock)
BIN := .venv/bin
STAMP := .venv/$(LOCK).installed

.PHONY: help demo test quick setup lint unit audit sbom lock clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

demo: setup
	@$(BIN)/python -m sandbox demo $(if $(ONCE),--once) $(if $(WEIGHTS),--weights '$(WEIGHTS)')

test: setup lint unit

setup: $(STAMP)

$(STAMP): $(LOCK)
	@test -n "$(PYTHON)" || { echo "dokocos needs Python 3.11, 3.12 or 3.13; found: $$(python3 --version 2>&1)"; exit 1; }
	@echo "Setting up .venv from $(LOCK); this takes a minute or two and happens once."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	@touch $(STAMP)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --exclude-files '^requirements.*\.lock$$'
	$(BIN)/python -m tests.advisories $(LOCK)

# Three processes for two cores: much of the time is spent waiting. The tests of a file stay together, as they share what they prepare.
unit: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile

quick: setup
	@$(BIN)/python -m tests.quick

# As in lint, but with a failure where the advisories cannot be reached, which takes more than a package index.
audit: setup
	$(BIN)/python -m tests.advisories --must-answer $(LOCK)

sbom: setup
	$(BIN)/python -m tests.sbom requirements-run.lock > dokocos.cdx.json

# After a change to the dependencies in pyproject.toml (needs uv): for development, for training and serving, for
# serving int8 versions only, for training on a Ray cluster or from a bucket, for a GPU.
# OpenVINO and NNCF work without the telemetry that they ask for; nothing here reports to anybody.
LOCK_WITH := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q \
    --no-emit-package openvino-telemetry \
    $(if $(RAISE),--upgrade-package $(RAISE))

lock:
	$(LOCK_WITH) --extra cpu --extra int8 --extra quantise --extra review --extra crop --extra sandbox --extra dev -o requirements.lock pyproject.toml
	$(LOCK_WITH) -c requirements.lock --extra cpu --extra int8 --extra quantise --extra review --extra crop -o requirements-run.lock pyproject.toml
	$(LOCK_WITH) -c requirements.lock --extra int8 --extra crop -o requirements-int8.lock pyproject.toml
	$(LOCK_WITH) -c requirements.lock --extra cpu --extra int8 --extra quantise --extra crop --extra ray --extra bucket -o requirements-ray.lock pyproject.toml
	$(LOCK_WITH) --extra gpu --extra review --extra crop --extra sandbox --extra dev -o requirements-gpu.lock pyproject.toml

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
