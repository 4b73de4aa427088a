# Two commands for a fresh machine: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
QUESTION ?= What happens to a file that cannot be parsed?
WORKERS ?= 2
# a file of tests stays in one process: what its tests share is made once
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile

.PHONY: demo test test-slow check install install-dev clean

demo: install ## ingest docs/ and ask it a question
	$(BIN)/ragops ingest
	$(BIN)/ragops search "$(QUESTION)" -k 3

test: install-dev ## all but the slow ones, two files of tests at a time
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-slow: install-dev ## the rest: more of the crash matrix, the real model under kill -9
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

check: install-dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/.installed
install-dev: .venv/.installed-dev

# torch first and pinned: an unpinned one may bring gigabytes of CUDA packages
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[ingest]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[ingest,dev]"
	touch $@

clean:
	rm -rf .venv .ragops data
