# Everything runs in .venv, which .ci/environment makes from the pins: nothing is installed outside this folder.
PYTHON ?=
PYTEST_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml requirements.lock .ci/environment

export PYTHON

.PHONY: help demo test bench bench-weights fuzz lint lint-verilog formal faults area boards mutants docs lock clean \
	distclean
.DEFAULT_GOAL := help

help:
	@echo 'make demo       a trained dynamic network on the RTL: what it sees, where it looks, what that saves'
	@echo 'make test       run the tests'
	@echo 'make bench      measure what the README states'
	@echo 'make bench-weights  of that: compressed weights, beside another codec'
	@echo 'make lint       ruff and pyright;  make lint-verilog: Verilator and Yosys on every preset'
	@echo 'make formal     prove the rules of the bus;  make faults: 200 faults on a simulated board'"'"'s serial line'
	@echo 'make area       LUTs, flip-flops, memories and multipliers by block'
	@echo 'make fuzz       new random cases by the thousand'
	@echo 'make boards     bitstreams and docs/boards.md; hours.  Some: make boards BOARDS="NAME ..."'
	@echo 'make mutants    break the sources on purpose and see that a test notices'
	@echo 'make docs       write the generated pages of docs/ anew'
	@echo 'make clean      remove built simulators and caches;  make distclean: and .venv'

# One stamp for each set of extras; installing one keeps the others.
$(VENV)/.installed: $(PINS)
	@.ci/environment
	@touch $@

$(VENV)/.installed-%: $(PINS)
	@.ci/environment $*
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/lacuna doctor --quiet
	@$(BIN)/python examples/scenes.py

test: $(VENV)/.installed-test
	@$(BIN)/lacuna doctor --quiet
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_FLAGS)

bench: $(VENV)/.installed-bench
	@$(BIN)/lacuna doctor --quiet
	@$(BIN)/python -m benchmarks

# Bytes of weights beside Arm's codec, the decoder's throughput, cycles by the memory's bandwidth, pruning.
bench-weights: $(VENV)/.installed-bench $(VENV)/.installed-codecs
	@$(BIN)/lacuna doctor --quiet
	@$(BIN)/python -m benchmarks --only weight_bytes decoder weights pruning

# New random cases, more of them: the codec, the decoder, random graphs. The seed is printed; LACUNA_SEED repeats it.
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.installed-test
	@echo LACUNA_SEED=$(FUZZ_SEED)
	@LACUNA_SEED=$(FUZZ_SEED) LACUNA_CODEC_EXAMPLES=10000 LACUNA_CODEC_ROUNDS=40 $(BIN)/python -m pytest -n 2 \
		--dist worksteal $(PYTEST_FLAGS) tests/hw/test_weight_format.py tests/hw/test_weight_decoder.py \
		tests/sim/test_golden_against_oracle.py tests/rtl/test_weights_on_rtl.py tests/rtl/test_random_graphs_on_rtl.py

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/pyright

# The generated Verilog of every preset: Verilator with -Wall, and Yosys.
lint-verilog: $(VENV)/.installed-synthesis
	@$(BIN)/python -m testbench.lint

# Rules of the AXI ports: k-induction and bounded model checking. Some minutes.
formal: $(VENV)/.installed-formal
	@$(BIN)/python -m testbench.formal

# The shipped model and a small one over a simulated board's serial line. Some minutes.
faults: $(VENV)/.installed-test
	@LACUNA_LINE_FAULTS=200 $(BIN)/python -m pytest -s -k faults tests/rtl/test_board_line.py

area: $(VENV)/.installed-synthesis
	@$(BIN)/python -m benchmarks.area

# Every board of hw/boards/catalogue.py, one after the other. One that does not fit, or misses its clock, says so; its
# tables go into the documentation all the same.
BOARDS ?= $(shell $(BIN)/python -c 'from hw.boards.catalogue import BOARDS; print(*BOARDS)')

boards: $(VENV)/.installed-boards
	@mkdir -p docs/boards
	@for board in $(BOARDS); do $(BIN)/lacuna build --board $$board --json docs/boards/$$board.json || true; done
	@$(BIN)/python docs/generate.py

# Breaks the sources in a copy, one deliberate mistake at a time; a test must notice each. About an hour.
mutants: $(VENV)/.installed-test $(VENV)/.installed-formal
	@$(BIN)/python tests/mutations/run.py

docs: $(VENV)/.installed
	@$(BIN)/python docs/generate.py

lock:
	@.ci/lock

clean:
	rm -rf build sim_build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
