# make run        the main job on this machine: emulator, training, registration, endpoint, questions, teardown
# make deploy-local   the same scheduled and from Prefect's page, on this machine: PORT=4200; make stop-local ends it
# make test       the tests, in three processes
# make test-full  these, and every fault and 200 kills, which they sample: about three hours
# make lint       ruff, the types, and whether pyproject.toml declares what is imported
# make screenshots   the browser tests, with their pictures for README and docs/operate.md
# make chaos      kill runs at random times and count what is left: RUNS=200 trials of SEED=0, over an hour
# make fuzz       20,000 drawn requests to the emulator, a few minutes
# make faults     a run for each call and each fault, and docs/faults.md, about an hour
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= 200
SEED ?= 0
PORT ?= 4200

.PHONY: run deploy-local stop-local test test-full lint screenshots chaos fuzz faults clean
.DELETE_ON_ERROR:

run: .venv/installed
	@$(BIN)/python -m flows.finetune --preset local $(ARGS)

# Three processes, because each waits for half of its time. What the emulators of all of them were asked and
# answered is checked at the end.
EXCHANGES := .retune/exchanges
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder
test: .venv/installed
	@rm -rf $(EXCHANGES)
	$(BIN)/python -m pytest $(BESIDE) -m "not exhaustive" --durations=25 --exchanges=$(EXCHANGES) \
	  --ignore=tests/test_openapi.py $(ARGS)
	$(BIN)/python -m pytest tests/test_openapi.py --exchanges=$(EXCHANGES)

test-full: test fuzz faults chaos
	$(BIN)/python -m pytest $(BESIDE) -m exhaustive
	$(BIN)/python tests/harness/data_kills.py --kills 50
	$(BIN)/python -m pytest tests/test_browser.py tests/test_report_page.py --screenshots .retune/screenshots

deploy-local: .venv/installed
	@$(BIN)/retune local start --port '$(PORT)'

stop-local: .venv/installed
	@$(BIN)/retune local stop

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/deptry . tests tests/harness benchmarks

screenshots: .venv/installed
	$(BIN)/python -m pytest tests/test_browser.py tests/test_report_page.py --screenshots docs/screenshots

chaos: .venv/installed
	@$(BIN)/python tests/harness/chaos.py --runs '$(RUNS)' --seed '$(SEED)' $(ARGS)

fuzz: .venv/installed
	$(BIN)/python -m pytest tests/test_fuzz.py --fuzz 20000

# Two processes, each with servers of its own; what has passed is in FAULTS, and CONTINUE=1 does not run it again.
FAULTS := .retune/faults.jsonl
MATRIX := $(BIN)/python -m pytest tests/test_fault_matrix.py -q -k a_fault_ends --faults $(FAULTS)
faults: .venv/installed
	@mkdir -p .retune
	$(if $(CONTINUE),,@rm -f $(FAULTS))
	@$(MATRIX) --shard 1/2 & other=$$!; $(MATRIX) --shard 2/2; status=$$?; wait $$other && exit $$status

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Retune needs Python 3.11 or newer")'
	@echo "installing into .venv, which takes a few minutes" >&2
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[emulator,trainer,privacy,azure,dev]'
	@touch $@

clean:
	rm -rf .venv .retune
