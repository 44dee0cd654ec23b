# Everything that a person or a machine needs: `make demo`, `make test`, `make check`, `make docs`, `make bench`.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .make
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test patient check format docs bench clean models
help:
	@echo "make demo   install what is needed and run the main job on real data (about seven minutes on two cores)"
	@echo "make test   install what is needed and run all tests"
	@echo "make check  style, types, documentation"
	@echo "make docs   build the documentation into site/"
	@echo "make bench  run the benchmarks and write docs/benchmarks.md"

$(STAMPS)/venv:
	$(PYTHON) -m venv .venv
	@mkdir -p $(STAMPS) && touch $@

# torch first and alone: whatever comes later finds it there and brings no other build
$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

$(STAMPS)/package: $(STAMPS)/torch pyproject.toml constraints.txt
	$(INSTALL) --editable '.[gguf]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/package
	$(INSTALL) --editable '.[gguf,flower,dev,docs]'
	@touch $@

$(STAMPS)/models: $(STAMPS)/package
	$(BIN)/pplr models pull minilm
	$(BIN)/pplr models pull smollm2-135m
	@touch $@

# the report is tested in a real browser, Debian's
$(STAMPS)/browser: $(STAMPS)/venv
	@if ! command -v chromium >/dev/null; then \
		SUDO=$$( [ "$$(id -u)" = 0 ] || echo sudo ); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium >/dev/null; fi
	@touch $@

models: $(STAMPS)/models

demo: $(STAMPS)/models
	$(BIN)/pplr demo

# one torch thread per worker: two workers on two cores
test: $(STAMPS)/dev $(STAMPS)/models $(STAMPS)/browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

# what waits for minutes by the clock: a silo that is slow, a network that is cut
patient: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m patient

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMPS)/dev
	$(BIN)/mkdocs build --strict

bench: $(STAMPS)/dev $(STAMPS)/models
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(STAMPS) site .pytest_cache .mypy_cache .ruff_cache
