# make train    train on CIFAR-10 where it is or can be downloaded, else on the digits that scikit-learn carries
# make live     open the page on which every turn of a knob trains again
# make test     lint, types and tests
# make check    compare the gradients with complex steps and central differences, and with PyTorch where it is installed
# make benchmark   time onelayer against NumPy, PyTorch, scikit-learn and JAX, as far as they are installed
# make lowest   run the tests with the lowest versions of the dependencies that pyproject.toml allows
# make mutants   plant deliberate faults and see whether the tests notice; see docs/testing.md
# make wheel    build a wheel in dist/, install it in an empty environment, and train there
#
# Each sets up its own virtual environment in .venv first. Pass options on: make train ARGS="--learning-rate 0.01".

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
ARGS ?=
# More packages for the tests, such as torch, without which the tests that compare with it are skipped.
TEST_PACKAGES ?=

# Other packages are another installation.
TESTS_INSTALLED := $(VENV)/installed-for-tests$(subst /,_,$(subst $(eval ) ,,$(TEST_PACKAGES)))

.PHONY: train live check test lowest mutants benchmark wheel clean

train: $(VENV)/installed
	$(VENV)/bin/onelayer train --preset coursework $(ARGS)

live: $(VENV)/installed-live
	$(VENV)/bin/onelayer live $(ARGS)

check: $(VENV)/installed
	$(VENV)/bin/onelayer check $(ARGS)

# Two processes run the tests on two cores: more threads of BLAS in each would wait for those of the other.
test lowest: export OPENBLAS_NUM_THREADS := 1
# The tests start hundreds of processes, which would each compile every module.
unexport PYTHONDONTWRITEBYTECODE

test: $(TESTS_INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n 2 --dist worksteal $(ARGS)

# With Python 3.11 or 3.12: some of the lowest releases have no wheels for later ones.
lowest: $(VENV)/bin/python
	$(PIP) uv
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python build/lowest
	$(VENV)/bin/uv pip install --quiet --python build/lowest --resolution lowest-direct '.[live,onnx,parquet]' --group test
	build/lowest/bin/pytest -n 2 --dist worksteal $(ARGS)

mutants: $(TESTS_INSTALLED)
	$(PIP) nanobind cmake
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/python tools/mutants.py $(ARGS)

benchmark: $(VENV)/installed
	$(VENV)/bin/python benchmarks/peers.py $(ARGS)

wheel: $(VENV)/bin/python
	tools/try_wheel.sh $(VENV)/bin/python

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "onelayer needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(VENV)/bin/python
	@echo "installing into $(VENV), which takes a minute"
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-live: $(VENV)/installed
	$(PIP) --editable '.[live]'
	@touch $@

# pip knows --group since 25.1; the one that venv brings may be older.
$(TESTS_INSTALLED): pyproject.toml $(VENV)/bin/python
	@echo "installing into $(VENV), which takes a minute"
	$(PIP) 'pip>=25.1'
	$(PIP) --editable '.[live,onnx,parquet]' --group dev $(TEST_PACKAGES)
	@touch $@ $(VENV)/installed
