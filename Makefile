# Two commands for a newcomer: `make book` (read it) and `make test` (check it). Python >= 3.11 is all that must be there;
# `make site` and `make test` also drive a Chromium.
PYTHON ?= python3
BUDGET ?= ci
BIN := .venv/bin
READY := .venv/.ready
REPORTS := _build/reports
PYTEST := $(BIN)/python -m pytest
CODE := dragkit book/draglab tests notebooks book/build.py book/_ext
STAGES := lint unit notebooks figures book site

# Photos that lie in the checkout or beside it are found; otherwise DRAGKIT_DATA says where, or `python -m dragkit.data` fetches them.
PHOTOS := $(firstword $(wildcard data/imagenette2-160 ../shared/data/imagenette2-160))
ifneq ($(PHOTOS),)
export DRAGKIT_DATA ?= $(abspath $(dir $(PHOTOS)))
endif

.PHONY: help install book test run pair goldens format clean $(STAGES)

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(READY)  ## create .venv with the tested versions (every other target does this first)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
	@echo "installing into .venv: minutes, and several GB"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[book,test,wild,train]" -c constraints.txt
	@touch $@

book: run  ## execute the notebooks and build the site; prints the page to open
	$(BIN)/python book/build.py

test: $(READY)  ## every check, in order, up to the first red one
	@rm -rf $(REPORTS); failed=; \
	for stage in $(STAGES); do echo "== $$stage"; $(MAKE) --no-print-directory $$stage || { failed=$$stage; break; }; done; \
	$(BIN)/python tests/summary.py $(REPORTS) "$$failed"

lint: $(READY)  ## style, types, spelling, notebook pairs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python notebooks/pair.py --check

unit: $(READY)  ## tests of the library
	$(PYTEST) tests/unit --junitxml=$(REPORTS)/unit.xml

notebooks: run  ## tests of the notebooks and of their driver
	$(PYTEST) tests/notebooks --junitxml=$(REPORTS)/notebooks.xml

figures: run  ## recorded numbers and pictures against the goldens
	$(PYTEST) tests/figures --junitxml=$(REPORTS)/figures.xml

site: book  ## the built pages in a real browser
	$(PYTEST) tests/site --junitxml=$(REPORTS)/site.xml

run: $(READY)  ## execute the notebooks (cached); BUDGET=ci|laptop|colab|paper
	$(BIN)/python notebooks/run.py --budget $(BUDGET)

pair: $(READY)  ## write the .ipynb of every notebooks/*.py
	$(BIN)/python notebooks/pair.py

goldens: run  ## accept the numbers and pictures of the last run, on purpose
	$(BIN)/python tests/figures/golden.py

format: $(READY)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format $(CODE)

clean:  ## remove what was built (the environment stays)
	rm -rf _build
