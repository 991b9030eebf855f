# Two commands for a fresh clone: `make demo` and `make test`. Each makes .venv, installs what it needs, builds, runs;
# a second call does only what has changed. Nothing outside this folder is touched.
#
#   make test TORCH='torch==2.13.0'    another torch requirement
#   make test TORCH_INDEX=URL          another package index for torch alone, as that of its CPU builds
#   make test FORCE_CUDA=1             also compile the CUDA kernels when torch is a CPU build
#   make test PYTEST='-k optim -x'     options for pytest; likewise DEMO=--quick, BENCH='linear --quick'
#   make test WORKERS=0                in one process instead of two

PYTHON ?= python3
TORCH ?= torch>=2.11
TORCH_INDEX ?=
VENV ?= .venv
PYTEST ?=
WORKERS ?= 2
DEMO ?=
BENCH ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# The requirements of an extra are written once, in pyproject.toml; one a line, because they may have conditions.
extra = $(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'], sep='\n')"
SOURCES = $$(git ls-files '*.h' '*.cuh' '*.cpp' '*.cu')

.PHONY: demo test lint bench doctor build clean requirement
.DELETE_ON_ERROR:

demo: build $(VENV)/ready-demo
	$(PY) -m halfops demo $(DEMO)

test: build $(VENV)/ready-demo $(VENV)/ready-test
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

bench: build $(VENV)/ready-demo
	$(PY) -m halfops bench $(BENCH)

doctor: build
	$(PY) -m halfops doctor

lint: $(VENV)/ready-torch $(VENV)/ready-lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(SOURCES)
	$(PY) -m mypy

# Ninja inside knows what is out of date. The commands go to build/log, and to the terminal when one fails.
build: $(VENV)/ready-torch
	@mkdir -p build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) setup.py --quiet build_ext --inplace > build/log || { tail -n 60 build/log; exit 1; }

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache halfops/_C*.so halfops/_build_info.json
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Some systems ship Python without ensurepip; then the outer pip fills the environment.
$(PY):
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'halfops needs Python 3.11 or newer, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(PY) install pip; }

# Holds the torch requirement that .venv was made for, and is touched only when that changes.
$(VENV)/requirement: requirement | $(PY)
	@echo '$(TORCH) $(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH) $(TORCH_INDEX)' > $@

$(VENV)/ready-torch: $(VENV)/requirement
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(PIP) 'setuptools>=64' wheel ninja numpy
	touch $@

$(VENV)/ready-%: pyproject.toml $(VENV)/ready-torch
	$(call extra,$*) | $(PIP) -r /dev/stdin
	touch $@
