# make run     a mail relay to look at, in the foreground, on 127.0.0.1:2525; Ctrl-C stops it
# make test    all tests, with real mail programs as peers
# make bench   the measurements, side by side with Postfix
# make check   formatting, types, layers
# make wheel   dist/*.whl, as `pip install .` would build it
#
# Everything is built into .venv, build/ and fastmta/_ext/, and only what changed is built again. As root, Debian
# packages that are missing are installed; without root they are named.
#
# Variables: RUN (folder of `make run`), PORT, PYTHON (3.11 to 3.13), VENV, PYTEST_ARGS, BENCH_ARGS

RUN ?= run
PORT ?= 2525
VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

PY := $(VENV)/bin/python
STAMPS := build/stamps
PEERS := $(CURDIR)/build/peers/root
EXT := $(wildcard ext/*.pyx ext/*.pxd ext/*.h)
PACKAGE := $(shell find fastmta bench tests -name '*.py' -o -name '*.pyi' -o -name '*.cf' 2>/dev/null)

.PHONY: run test bench check fix wheel peers clean
.DELETE_ON_ERROR:

run: $(STAMPS)/ext
	@exec $(VENV)/bin/fastmta quickstart $(RUN) $(PORT)

test: $(STAMPS)/dev $(STAMPS)/ext peers
	PATH="$$PATH:$(PEERS)/usr/sbin:$(PEERS)/usr/bin:/usr/sbin:/usr/local/sbin" \
	NODE_PATH="$(PEERS)/usr/share/nodejs" $(PY) -m pytest $(PYTEST_ARGS)

bench: $(STAMPS)/dev $(STAMPS)/ext peers
	PATH="$$PATH:/usr/sbin" $(PY) -m bench $(BENCH_ARGS)

check: $(STAMPS)/dev $(STAMPS)/ext
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint ext/*.pyx ext/*.pxd
	$(PY) -m pytest tests/unit/test_project.py tests/unit/test_layers.py

fix: $(STAMPS)/dev
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

wheel: $(STAMPS)/venv
	$(PY) -m pip wheel --no-deps --wheel-dir dist .

peers: $(STAMPS)/peers

# A virtual environment with what pyproject.toml asks for, FastMTA itself in place of a copy.

$(STAMPS)/system: .ci/system
	@mkdir -p $(STAMPS)
	@PYTHON="$(PYTHON)" .ci/system > $@

$(STAMPS)/venv: $(STAMPS)/system
	@test -x $(PY) || "$$(cat $(STAMPS)/system)" -m venv $(VENV)
	@touch $@

$(STAMPS)/packages: pyproject.toml .ci/requirements $(STAMPS)/venv
	@echo "installing what pyproject.toml asks for"
	@$(PY) .ci/requirements | $(PY) -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@

$(STAMPS)/dev: pyproject.toml .ci/requirements $(STAMPS)/packages
	@$(PY) .ci/requirements dev | $(PY) -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@

$(STAMPS)/install: pyproject.toml $(STAMPS)/packages
	@FASTMTA_EXT=none $(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(STAMPS)/ext: setup.py $(EXT) $(STAMPS)/install
	@echo "compiling ext/ (a minute when all of it is new; build/ext.log)"
	@$(PY) setup.py --quiet build_ext --inplace --parallel $$(nproc) > build/ext.log 2>&1 || { cat build/ext.log; exit 1; }
	@touch $@

$(STAMPS)/peers: .ci/peers
	@mkdir -p $(STAMPS)
	@.ci/peers build/peers $@

clean:
	rm -rf build dist *.egg-info fastmta/_ext/*.so
