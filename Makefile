# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin
LOCK := requirements.lock

.PHONY: setup demo test test-all lint bench docs lock clean

setup: .venv/.synced

# uv checks every file's hash against the lock; the lock holds pins and hashes and no addresses.
.venv/.synced: $(LOCK) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python --quiet --require-hashes $(LOCK)
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/dwf demo

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not gpu"

test-all: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# DATA: a folder with CIFAR-10, for the comparisons on trained models. An hour on two idle cores.
bench: setup
	$(BIN)/python benchmarks/everything.py $(if $(DATA),--data $(DATA))

docs: setup
	$(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

# Run after a change of pyproject.toml: new pins with hashes, for every platform.
lock:
	$(BIN)/uv pip compile pyproject.toml --group dev --extra tensorboard --extra ray --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --output-file $(LOCK)

clean:
	rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache
