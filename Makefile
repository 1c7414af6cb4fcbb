# make demo   sets up .venv, trains on pictures that ship with it, and says where the report is
# make test   sets up .venv with the developers' tools, then lints and tests
# make test-system  installs programs of the system by apt-get, and runs the tests that need them
# make docs   builds the site into site/, without a network once its tools are installed
# make package  builds wheel and sdist into dist/ and checks them
# make lint   the checks of `make test` without the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo docs lint package test test-system

demo: $(VENV)/installed
	$(BIN)/fanogan demo --out demo
	@echo "The report: $(CURDIR)/demo/report.html"

test: lint
	$(BIN)/python -m pytest -q

# dicom3tools has dciodvfy, which says whether DICOM objects are as the standard has them; Orthanc is an image archive,
# dcmtk another reader, and the pages of `review` are tested in Chromium. nvidia-pytriton has a Triton server,
# which is taken without the Python packages that it asks for beside it.
test-system: $(VENV)/installed-dev
	apt-get install --yes --quiet chromium dcmtk dicom3tools orthanc orthanc-dicomweb
	$(BIN)/python -m pip install --quiet --no-deps nvidia-pytriton==0.7.0
	$(BIN)/python -m pytest -q -m system

docs: $(VENV)/installed
	$(INSTALL) --editable '.[docs,export,oct]'
	$(BIN)/python -m mkdocs build --strict

package: $(VENV)/installed
	$(INSTALL) --editable '.[package]'
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Stamps: an install is repeated only after one of the two files that decide it has changed.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing fanogan into $(VENV); the first time takes some minutes."
	$(INSTALL) --editable '.[oct]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing fanogan and its developers' tools into $(VENV); the first time takes some minutes."
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/installed

# A half-made environment is removed: its python would pass for a finished one next time.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fanogan needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with 'make PYTHON=/path/to/python3.11 …'."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
