PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

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

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(VENV)/bin/python
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints-test.txt $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints-test.txt -e '.[test]'
	touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) dist build
