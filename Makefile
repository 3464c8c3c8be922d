# relayd: every word of a developer's day. `make run` and `make test` need nothing but python3 (3.11 or newer) and this
# file: they set up what is missing and are quick when nothing is.
#
#   run    start relayd in the foreground on conf/relayd.yaml       bench  measure against the peers
#   test   unit and functional tests, newest libraries              docs   write the generated files anew
#   style  ruff            types  mypy --strict                     deb    build dist/relayd_*_all.deb
#   cover  test coverage   fuzz   parsers against their oracles     clean  remove everything that make made
#   soak   minutes of traffic with random aborts       apt-repo  dist/apt, a signed repository of it (KEY=...)
#   clients  real programs (SDKs, Codex, Claude Code, llmprobe) over scripted back-ends
#   acceptance  the package in booted Debian systems   reproducible  two builds, byte for byte, and lintian
#   check  all of it: style types test-debian fuzz docs-unchanged clients reproducible deb acceptance

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
CONFIG ?= conf/relayd.yaml
ARGS ?=

VENV := .venv
DEBIAN_VENV := .venv-debian
PY := $(VENV)/bin/python
DEBIAN_PY := $(DEBIAN_VENV)/bin/python

# What relayd itself needs stands in setup.py and is read from there.
RUNTIME = $$($(PY) -c 'import re; print(*re.findall(r"\"([^\"]+)\"", re.search(r"install_requires=\[(.*?)\]", open("setup.py").read(), re.S)[1]))')
TEST_TOOLS := pytest pytest-tornasync hypothesis h11 httptools h2 openai anthropic websockets prometheus-client coverage
LINT_TOOLS := mypy ruff types-PyYAML
BENCH_TOOLS := aiohttp uvloop
BENCH_PACKAGES := nginx-light wrk
DEBIAN_RUNTIME := python3-venv python3-tornado python3-pycurl python3-yaml python3-statsd python3-cryptography
DEB_TOOLS := dpkg-dev debhelper dh-apparmor dh-python python3-all python3-setuptools pybuild-plugin-pyproject
PIP := -m pip --disable-pip-version-check --quiet

.PHONY: run soak style types test test-debian cover fuzz bench docs docs-unchanged deb reproducible apt-repo acceptance
.PHONY: check clean clients setup
.DEFAULT_GOAL := check

run: $(VENV)/.runtime
	@exec $(PY) -m relayd run -c $(CONFIG) $(ARGS)

test: $(VENV)/.tools
	$(PY) -m pytest $(ARGS)

style: $(VENV)/.tools
	$(VENV)/bin/ruff check .

types: $(VENV)/.tools
	$(VENV)/bin/mypy

cover: $(VENV)/.tools
	$(PY) -m coverage run -m pytest $(ARGS)
	$(PY) -m coverage report --skip-covered --show-missing

fuzz: $(VENV)/.tools
	$(PY) -m pytest -m fuzz $(ARGS)

soak: $(VENV)/.tools
	RELAYD_SOAK_SECONDS=$${RELAYD_SOAK_SECONDS:-300} $(PY) -m pytest tests/functional/test_soak.py $(ARGS)

bench: $(VENV)/.bench
	$(PY) tests/bench/run.py $(ARGS)

# The same tests on Debian's own Tornado, pycurl and libcurl.
test-debian: $(DEBIAN_VENV)/.tools
	@$(DEBIAN_PY) -c 'import sys, tornado, pycurl; print("Debian set:", sys.version.split()[0], "tornado", tornado.version, pycurl.version)'
	$(DEBIAN_PY) -m pytest $(ARGS)

docs: $(VENV)/.runtime
	$(PY) tests/docs_check.py --write

docs-unchanged: $(VENV)/.runtime
	$(PY) tests/docs_check.py

# Built from a copy, so that the work tree stays as it is; with the system's Python, whatever stands before it in PATH.
deb: .stamps/deb-tools
	rm -rf dist/tree && mkdir -p dist/tree/relayd
	git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null \
	    | tar -c --no-recursion -T - | tar -x -C dist/tree/relayd
	cd dist/tree/relayd && env PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -b -us -uc >../../build.log 2>&1 \
	    || { tail -n 60 ../../build.log; exit 1; }
	rm -f dist/*.deb && mv dist/tree/*.deb dist/ && rm -rf dist/tree
	@ls dist/*.deb

# The tree twice, in other places, with another clock, mask, language and home: the packages must not tell.
reproducible: .stamps/deb-tools .stamps/lintian
	rm -rf dist/twice && mkdir -p dist/twice/one/relayd dist/twice/two/deeper/relayd
	git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null | tar -c --no-recursion -T - >dist/twice/tree.tar
	tar -x -C dist/twice/one/relayd -f dist/twice/tree.tar
	tar -x -C dist/twice/two/deeper/relayd -f dist/twice/tree.tar
	cd dist/twice/one/relayd && env PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -b -us -uc >../build.log 2>&1 \
	    || { tail -n 60 ../build.log; exit 1; }
	cd dist/twice/two/deeper/relayd && umask 027 && env PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=Asia/Tokyo LC_ALL=C HOME=/nonexistent \
	    dpkg-buildpackage -b -us -uc >../build.log 2>&1 || { tail -n 60 ../build.log; exit 1; }
	cmp dist/twice/one/*.deb dist/twice/two/deeper/*.deb
	lintian --fail-on error,warning dist/twice/one/*.changes
	@sha256sum dist/twice/one/*.deb | sed 's, .*/,  ,'; rm -rf dist/twice

# KEY: a secret key of your own keyring. README.md has the lines for the servers.
apt-repo: deb
	@test -n "$(KEY)" || { echo "make apt-repo KEY=you@example.org (gpg --list-secret-keys)" >&2; exit 2; }
	@command -v apt-ftparchive gpg >/dev/null || { $(call apt_install,apt-utils gpg); }
	debian/make-repository dist/apt "$(KEY)" dist/relayd_*_all.deb

# Installs the package in booted Debian systems; skipped, with the reason, where the host cannot boot one.
acceptance: $(VENV)/.tools deb
	$(PY) -m pytest -m packaging tests/packaging $(ARGS)

# In an environment of their own: some of them want other versions of what the tests use. What a registry does not have
# is left out with a word.
clients: $(VENV)/.tools
	@test -x build/clients/venv/bin/python || $(PYTHON) -m venv build/clients/venv
	@build/clients/venv/bin/python $(PIP) install --prefer-binary $(RUNTIME) $(TEST_TOOLS)
	tests/clients/install.sh build/clients build/clients/venv/bin/python
	build/clients/venv/bin/python -m pytest tests/clients $(ARGS)

check: style types test-debian fuzz docs-unchanged clients reproducible deb acceptance

clean:
	rm -rf $(VENV) $(DEBIAN_VENV) .stamps .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage \
	    build dist relayd.egg-info .pybuild node_modules
	find relayd tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.tools

# Set-up. Each stamp is older than what decided it, or it is made again.

define apt_install
if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
    apt-get install -y -q --no-install-recommends $(1) >/dev/null 2>&1 || { \
        apt-get update -q >/dev/null; \
        apt-get install -y -q --no-install-recommends $(1) >/dev/null; }; \
else \
    echo "This needs the packages: $(1). Install them, or run make as root." >&2; exit 1; \
fi
endef

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "relayd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.13 run" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call apt_install,python3-venv); }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.runtime: setup.py | $(VENV)/bin/python
	@$(PY) $(PIP) install --prefer-binary $(RUNTIME)
	@touch $@

$(VENV)/.tools: Makefile $(VENV)/.runtime
	@echo "setting up the tools of the tests"
	@$(PY) $(PIP) install --prefer-binary $(TEST_TOOLS) $(LINT_TOOLS)
	@touch $@

$(VENV)/.bench: $(VENV)/.tools
	@$(PY) $(PIP) install --prefer-binary $(BENCH_TOOLS)
	@{ command -v nginx || test -x /usr/sbin/nginx; } >/dev/null && command -v wrk >/dev/null || { $(call apt_install,$(BENCH_PACKAGES)); }
	@touch $@

$(DEBIAN_VENV)/.tools: Makefile
	@echo "setting up $(DEBIAN_VENV) on Debian's own packages"
	@/usr/bin/python3 -c 'import ensurepip, venv, tornado, pycurl, yaml, statsd, cryptography' 2>/dev/null || { $(call apt_install,$(DEBIAN_RUNTIME)); }
	@test -x $(DEBIAN_PY) || /usr/bin/python3 -m venv --system-site-packages --clear $(DEBIAN_VENV)
	@$(DEBIAN_PY) $(PIP) install --prefer-binary $(TEST_TOOLS)
	@$(DEBIAN_PY) -c 'import sys, tornado, pycurl; sys.exit(any("$(DEBIAN_VENV)" in m.__file__ for m in (tornado, pycurl)))' \
	    || { echo "a tool of the tests replaced Debian's Tornado or pycurl" >&2; exit 1; }
	@touch $@

.stamps/lintian: Makefile
	@mkdir -p .stamps
	@command -v lintian >/dev/null || { $(call apt_install,lintian); }
	@touch $@

.stamps/deb-tools: Makefile debian/control
	@mkdir -p .stamps
	@dpkg-checkbuilddeps 2>/dev/null || { $(call apt_install,$(DEB_TOOLS)); }
	@touch $@
