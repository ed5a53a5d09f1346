# One command each for a demonstration, the tests and the checks. All of them make .venv first, when it is needed.
#
#   make demo    export the demo model for Intel in INT8, verify the bundle, embed 64 synthetic tiles and a synthetic slide
#   make test    run every test
#   make test-devices  run the wheel and the device kits on Python 3.10 to 3.13, without PyTorch (ARGS="-k 3.10" for one)
#   make lint    check style and format (ruff), spelling (codespell) and the order of rooms (import-linter)
#   make types   check types (mypy, strict)
#   make check   lint, types and test
#   make docs    build the site of docs/ into build/docs, notebooks included; no network, a warning is an error
#   make bench   run the speed suites of benchmarks/ (ARGS=benchmarks for all)
#   make venv    make or bring up to date .venv, with everything the other targets need
#   make clean   remove what the targets made, .venv too
#   make help    print this list

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-devices lint types check docs bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

venv: $(STAMP)

# Pinned to the versions that were tested; done again only when one of these two files changes.
$(STAMP): pyproject.toml constraints.txt
	@echo "== $(VENV): installing edgepath, every backend and the development tools (about 7 GB, some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev,docs]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/edgepath export --target openvino-int8 --force
	$(BIN)/edgepath verify build/demo-openvino-int8
	$(BIN)/edgepath embed build/demo-openvino-int8 synthetic:64 --out build/features.h5 --force
	rm -rf build/slides
	$(BIN)/edgepath slides build/demo-openvino-int8 synthetic:1 --out build/slides --picture

test: $(STAMP)
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist loadfile --max-worker-restart 0)

test-devices: $(STAMP)
	$(BIN)/python -m pytest tests/devices.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-cache

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

docs: $(STAMP)
	$(BIN)/python docs/_ext/diagram.py docs/pictures/*.txt
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs

bench: $(STAMP)
	$(BIN)/python -m pytest --benchmark-enable --timeout 0 -W default $(or $(ARGS),benchmarks -m "not long")

clean:
	rm -rf $(VENV) build dist docs/_generated .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find edgepath tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
