# Every target installs what it needs, so each works on its own on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: install quickstart test mutants bench lint format lock clean

install: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; use another one: make PYTHON=python3.12 install"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

quickstart: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES)
	@echo "open results/quickstart/report.html"

test: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -n $(CORES)

# Change the sources in 600 places, one after the other, and count how often a test notices; an hour.
# Where it was stopped it goes on, until results/mutants is emptied. docs/mutants.md says what came of it.
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	nice $(BIN)/python tests/mutation/run.py $(if $(SIZE),--size $(SIZE)) $(if $(SEED),--seed $(SEED))

# Write all benchmarks to docs/benchmarks.md; takes hours. A single one: make bench ONLY=growth.
# Small sizes: make bench QUICK=1.
bench: $(READY)
	$(BIN)/python benchmarks/run_all.py $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/lint-imports
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --lint

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

# Resolve pyproject.toml from scratch and pin all packages; needs the CPU build of torch.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet --editable '.[dev]'
	{ echo "# All dependencies, pinned; made by make lock. torch brings its own CUDA packages where it needs them."; .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/^torch==.*/torch==2.13.0/'; } > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .snakemake .pytest_cache .ruff_cache logs results/*/
