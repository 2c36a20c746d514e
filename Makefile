# Two commands are enough: `make demo` and `make test`. Each installs what it needs into .venv first.
# A CPython 3.11: left empty, the first of python3.11, python3 and python that is one.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Where PyTorch's build is looked for: `make install TORCH_INDEX=https://download.pytorch.org/whl/cu126` for CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
INSTALL = PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh .ci/install.sh
STAMP := $(VENV)/.installed
RIVAL := .venv-rival
MUTATE := .venv-mutate
DEMO := runs/demo
RELEASED := checkpoints/released/ball-circle/cvpo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check bench bench-rival-env mutate clean
# an index that is asked for by name may replace a build that is already installed
ifeq ($(origin TORCH_INDEX),command line)
.PHONY: $(STAMP)
endif

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## install into .venv
	@echo "== installed in $(VENV)"

$(STAMP): pyproject.toml constraints.txt
	@echo "== installing harden and what it needs into $(VENV) (once)"
	@$(INSTALL) $(VENV)
	@touch $@

demo: $(STAMP) ## harden a vanilla policy on SafetyBallCircle-v0 and show it before and after
	@echo "== demo: a vanilla policy, attacked; then hardened from benign data; then attacked again"
	rm -rf $(DEMO)
	$(BIN)/harden evaluate -p pipelines/quickstart.toml --policy $(RELEASED) --attack random,mc,mr --json $(DEMO)/before.json
	$(BIN)/harden train -p pipelines/quickstart.toml --init $(RELEASED) --overwrite
	$(BIN)/harden evaluate -p pipelines/quickstart.toml --attack random,mc,mr --json $(DEMO)/after.json
	$(BIN)/harden report --compare $(DEMO)/before.json checkpoints/quickstart --out report.html

test: $(STAMP) ## run the tests, real simulation included
	@echo "== tests"
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP) ## run the long tests and write tests/slow-results.json
	@echo "== slow tests"
	$(BIN)/python -m pytest -m slow --results tests/slow-results.json

check: $(STAMP) ## ruff and the type checker
	@echo "== ruff and mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) $(RIVAL)/.installed ## speed beside the rivals: rounds, attacks, reading, start-up (ten minutes)
	@echo "== benchmark (leave the machine alone meanwhile)"
	$(BIN)/python benchmarks/bench.py --rival $(RIVAL)/bin/python

bench-rival-env: $(RIVAL)/.installed ## install FSRL, the benchmark's rival, into an environment of its own
	@echo "== installed in $(RIVAL)"

$(RIVAL)/.installed:
	@echo "== installing the rival (fast-safe-rl) into $(RIVAL) (once)"
	@RIVAL=1 $(INSTALL) $(RIVAL)
	@touch $@

mutate: $(MUTATE)/.installed ## change the method's code, one place at a time, and count what the tests notice
	@echo "== mutants (an hour on one core)"
	$(MUTATE)/bin/python benchmarks/mutation.py --json benchmarks/results/mutation.json

# mutmut beside what .venv holds, and no dependency of harden
$(MUTATE)/.installed: $(STAMP)
	@echo "== installing mutmut into $(MUTATE) (once)"
	@$(BIN)/python -m venv --without-pip $(MUTATE)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $(MUTATE)/lib/python3.11/site-packages/harden.pth
	@$(BIN)/python -m pip --python $(MUTATE)/bin/python install --quiet mutmut==3.8.1
	@touch $@

clean: ## remove what was installed and the demo's output
	rm -rf $(VENV) $(RIVAL) $(MUTATE) $(DEMO) report.html datasets/quickstart checkpoints/quickstart
