# The same commands for a person, for CI and for the README.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What training needs; and with it what tests, checks and benchmarks need.
PROGRAM := $(VENV)/.program
TOOLS := $(VENV)/.tools
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test test-all test-reliability smoke check bench gpu picture docs dist clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(PROGRAM): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 16) and "trainctl needs Python 3.11 to 3.15: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(TOOLS): $(PROGRAM)
	$(INSTALL) -e '.[dev]'
	@touch $@

train: $(PROGRAM) ## set up what training needs and train the default config
	$(BIN)/trainctl $(ARGS)

test: $(TOOLS) ## the tests, in a few minutes
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not gpu and not cluster' $(ARGS)

test-all: $(TOOLS) ## the tests, the slow ones and those for a GPU included
	$(BIN)/python -m pytest $(ARGS)

test-reliability: $(TOOLS) ## kill runs at every file operation, fill the disk, flip every byte, in minutes
	$(BIN)/python -m tests.reliability $(ARGS)

smoke: $(TOOLS) ## train, save, kill, resume, use and export every config; absent data is made up
	$(BIN)/trainctl smoke $(ARGS)

check: $(TOOLS) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(TOOLS) ## start, checkpoints and guards; with MNIST=DIR (of its .gz files) every way side by side, too
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/guards.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/images.py --rounds 3
	$(if $(MNIST),$(BIN)/python -m pip install --quiet -c constraints.txt '.[bench]')
	$(if $(MNIST),$(BIN)/python benchmarks/speed.py --mnist $(MNIST) --json benchmarks/speed.json $(ARGS))
	$(if $(MNIST),$(BIN)/python benchmarks/sweep.py --mnist $(abspath $(MNIST)/../..) --json benchmarks/sweep.json)

gpu: ## on a CUDA device, in six minutes, without a network: its tests, and trainctl beside its rivals
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

picture: $(TOOLS) ## draw the terminal picture of the README
	$(BIN)/python docs/picture.py

docs: $(TOOLS) ## the documentation site, into build/site; a broken link fails
	$(INSTALL) -e '.[docs]'
	$(BIN)/python docs/pages.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

dist: $(TOOLS) ## build and check the wheel and the source archive, into dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

clean: ## remove what builds and tests leave; keeps outputs and the environment
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
