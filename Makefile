# Two commands do all of their own set-up:  make demo  (two minutes to a trained classifier)   make test  (as CI runs it)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/demo.stamp
	@rm -rf runs/demo
	$(BIN)/phiscale fit digits --network efficientnet_lite0 --macs 80M --epochs 4 -o runs/demo

test: $(VENV)/test.stamp check
	$(BIN)/python -m pytest

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

# The stamp is written last: an interrupted set-up starts again and keeps what is already there.
$(VENV)/%.stamp: pyproject.toml constraints.txt tools/setup.sh
	sh tools/setup.sh "$(PYTHON)" "$(VENV)" "$*"
	@touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .ruff_cache .hypothesis
