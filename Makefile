# Every target makes .venv first, if it is missing or settings.ini or setup.py is newer.
PYTHON ?= python3
SIZE ?= mini
ARGS ?=
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help install train test lab notebooks readme site clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make train [SIZE=mini] [ARGS='-p epochs 2']  post-train with SAR, samples and table before and after"
	@echo "make test       notebooks, generated files, pytest"
	@echo "make lab        JupyterLab on the notebooks"
	@echo "make notebooks  re-execute the committed notebooks in place (NB='02_tokenizer' for one)"
	@echo "make readme     README.md from nbs/index.ipynb"
	@echo "make site       all notebooks as a static site in _site/html, from their stored outputs"
	@echo "make clean      remove caches and build products; make distclean removes .venv too"

install: $(READY)

$(READY): settings.ini setup.py
	@test -x $(BIN)/python || { echo "creating .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing requirements into .venv (the first time: some GB, a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e ".[all]"
	@touch $@

train: $(READY)
	@$(BIN)/sar run 07_train -p size $(SIZE) $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

lab: $(READY)
	@$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb $$([ $$(id -u) != 0 ] || echo --allow-root)

notebooks: $(READY)
	@$(BIN)/sar execute $(NB)

readme: $(READY)
	@$(BIN)/python tools/readme.py

site: $(READY)
	@$(BIN)/python -c 'import jupyter_book, latex2mathml' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e ".[site]"
	@$(BIN)/python tools/pages.py

clean:
	@rm -rf build dist *.egg-info .pytest_cache runs/notebooks _site
	@find sar_repro nbs tests tools \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	@rm -rf .venv
