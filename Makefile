# make run        the main job on this machine: emulator, training, registration, endpoint, questions, teardown
# make test       the tests
# make lint       ruff
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint clean
.DELETE_ON_ERROR:

run: .venv/installed
	@$(BIN)/python -m flows.finetune --preset local $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Retune needs Python 3.11 or newer")'
	@echo "installing into .venv, which takes a few minutes" >&2
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[emulator,trainer,dev]'
	@touch $@

clean:
	rm -rf .venv .retune
