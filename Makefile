# Development commands of relayd. `make run` and `make test` only need python3 (3.11 or newer): they install missing
# requirements, and are fast if none are missing.
#
#   run    start relayd in the foreground with conf/relayd.yaml     bench  benchmark against other servers
#   test   unit and functional tests with pinned libraries          docs   generate manuals, schema and samples
#   quick  tests that need no process, below a minute               deb    build dist/relayd_*_all.deb
#   style  ruff            types  mypy --strict                     clean  remove all generated files
#   cover  test coverage   fuzz   fuzz tests of parsers
#   test-debian  tests with Debian's libraries     test-newest  with the newest libraries     pins  pin the newest ones
#   test-valkey  what instances share, with Valkey in the place of Redis
#   soak   minutes with 200 clients and random aborts     apt-repo  dist/apt, a signed repository (KEY=...)
#   clients  real clients (SDKs, Codex, Claude Code, llmprobe) against scripted upstreams
#   acceptance  the package in booted Debian systems      reproducible  two identical builds, and lintian
#   check  style types test-debian test-newest fuzz docs-unchanged clients reproducible deb acceptance

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# Tests start thousands of processes: each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
CONFIG ?= conf/relayd.yaml
ARGS ?=
# Tests mostly wait, so there are more workers than cores. ARGS=-n0 runs without workers, for example in a debugger.
WORKERS ?= $(shell echo $$(( 2 * $$(nproc) )))
PARALLEL = -n $(WORKERS) --dist worksteal --durations=20

VENV := .venv
DEBIAN_VENV := .venv-debian
NEWEST_VENV := .venv-newest
PY := $(VENV)/bin/python
DEBIAN_PY := $(DEBIAN_VENV)/bin/python
NEWEST_PY := $(NEWEST_VENV)/bin/python

# setup.py declares the dependencies, PINS the tested versions: first those of the runtime libraries, which the tests with
# Debian's and with the newest libraries ignore.
PINS := tests/constraints.txt
# These tests start no process.
QUICK := $(addprefix tests/unit/,access config limits plan routing schema stores telemetry wire) tests/unit/test_*.py
SHARED := tests/unit/stores $(wildcard tests/unit/limits/test_shared_*.py tests/unit/daemon/test_shared_*.py \
	tests/functional/test_shared_*.py) tests/functional/test_store_redis.py tests/functional/test_sessions_shared.py
BENCH_PACKAGES := nginx-light wrk
DEBIAN_RUNTIME := python3-venv python3-tornado python3-pycurl python3-yaml python3-statsd python3-cryptography python3-acme \
	python3-dnspython python3-jwt python3-redis
DEB_TOOLS := dpkg-dev debhelper dh-apparmor dh-python python3-all python3-setuptools pybuild-plugin-pyproject
# A checksum of all files that the package is built from.
TREE_SUM = git ls-files -z --cached --others --exclude-standard | LC_ALL=C sort -zu | xargs -0 sha256sum 2>/dev/null | sha256sum
PIP := -m pip --disable-pip-version-check --quiet

.PHONY: run soak style types test quick test-debian test-newest pins cover fuzz bench docs docs-unchanged deb build-deb reproducible apt-repo
.PHONY: acceptance check clean clients setup test-valkey
.DEFAULT_GOAL := check

run: $(VENV)/.runtime
	@exec $(PY) -m relayd run -c $(CONFIG) $(ARGS)

test: $(VENV)/.tools
	$(PY) -m pytest $(PARALLEL) $(ARGS)

quick: $(VENV)/.tools
	$(PY) -m pytest -q -n $(WORKERS) --dist worksteal $(QUICK) $(ARGS)

style: $(VENV)/.tools
	$(VENV)/bin/ruff check .

types: $(VENV)/.tools
	$(VENV)/bin/mypy

# The unit tests, and the minimum coverage of each file.
cover: $(VENV)/.tools
	@mkdir -p .cache && rm -f .cache/coverage*
	$(PY) -m coverage run -m pytest $(PARALLEL) tests/unit tests/docs $(ARGS)
	@$(PY) -m coverage combine -q && $(PY) -m coverage json -q -o .cache/coverage.json
	@$(PY) -m coverage report --skip-covered
	$(PY) tests/coverage_floor.py .cache/coverage.json

# Searches with new random inputs. RELAYD_EXAMPLES=new make test does the same for property-based tests.
fuzz: $(VENV)/.tools
	RELAYD_EXAMPLES=new $(PY) -m pytest -m fuzz $(PARALLEL) $(ARGS)

soak: $(VENV)/.tools
	RELAYD_SOAK_SECONDS=$${RELAYD_SOAK_SECONDS:-300} RELAYD_SOAK_CLIENTS=$${RELAYD_SOAK_CLIENTS:-200} \
	    $(PY) -m pytest -rP tests/functional/test_soak.py $(ARGS)

bench: $(VENV)/.bench
	$(PY) tests/bench/run.py $(ARGS)

# The tests of what instances share, with Valkey in the place of Redis.
test-valkey: $(VENV)/.tools
	@if command -v valkey-server >/dev/null; then RELAYD_REDIS_SERVER=valkey-server $(PY) -m pytest $(PARALLEL) $(SHARED) $(ARGS); \
	    else echo "skipped: valkey-server is not installed (Debian 13, Ubuntu 24.04: apt install valkey-server)"; fi

# The same tests with Debian's Tornado, pycurl and libcurl, but those of packages that use no library.
test-debian: $(DEBIAN_VENV)/.tools
	@$(DEBIAN_PY) -c 'import sys, tornado, pycurl; print("Debian set:", sys.version.split()[0], "tornado", tornado.version, pycurl.version)'
	$(DEBIAN_PY) -m pytest $(PARALLEL) $(addprefix --ignore=tests/unit/,limits plan protocols routing schema) $(ARGS)

# The libraries that pip installs today, if they differ from the pinned ones; test tools stay pinned.
test-newest:
	@$(PYTHON) -m venv --clear $(NEWEST_VENV)
	@mkdir -p .stamps && $(NEWEST_PY) tests/pins.py tools >.stamps/tools.txt
	@$(NEWEST_PY) $(PIP) install --prefer-binary -c .stamps/tools.txt -e '.[test]'
	@if $(NEWEST_PY) tests/pins.py differ; then echo "the newest libraries are the pinned ones"; \
	    else $(NEWEST_PY) -m pytest $(PARALLEL) $(or $(ARGS),tests/unit); fi

# Update all pins; written only if all tests pass.
pins:
	$(PYTHON) -m venv --clear $(NEWEST_VENV)
	$(NEWEST_PY) $(PIP) install --prefer-binary -e '.[test,lint,bench]'
	$(NEWEST_VENV)/bin/ruff check .
	$(NEWEST_VENV)/bin/mypy
	$(NEWEST_PY) -m pytest $(PARALLEL) $(ARGS)
	$(NEWEST_PY) tests/pins.py write

docs: $(VENV)/.runtime
	$(PY) tests/docs_check.py --write

docs-unchanged: $(VENV)/.runtime
	$(PY) tests/docs_check.py

# The package of this tree, if it was not built yet.
deb: .stamps/deb-tools
	@{ $(TREE_SUM) | cmp -s - dist/tree.sha256 && ls dist/*.deb; } 2>/dev/null || $(MAKE) --no-print-directory build-deb

# Built from a copy, so that the work tree is unchanged, and with the system's Python regardless of PATH.
build-deb: .stamps/deb-tools
	rm -rf dist/tree && mkdir -p dist/tree/relayd
	git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null \
	    | tar -c --no-recursion -T - | tar -x -C dist/tree/relayd
	cd dist/tree/relayd && env PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -b -us -uc >../../build.log 2>&1 \
	    || { tail -n 60 ../../build.log; exit 1; }
	rm -f dist/*.deb && mv dist/tree/*.deb dist/ && rm -rf dist/tree
	@$(TREE_SUM) >dist/tree.sha256
	@ls dist/*.deb

# Two builds in different folders, time zones, umasks, locales and homes must be identical.
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
	rm -f dist/*.deb && mv dist/twice/one/*.deb dist/ && rm -rf dist/twice
	@$(TREE_SUM) >dist/tree.sha256
	@sha256sum dist/*.deb | sed 's, .*/,  ,'

# KEY: a secret key of your keyring. README.md shows the use on servers.
apt-repo: deb
	@test -n "$(KEY)" || { echo "make apt-repo KEY=you@example.org (gpg --list-secret-keys)" >&2; exit 2; }
	@command -v apt-ftparchive gpg >/dev/null || { $(call apt_install,apt-utils gpg); }
	debian/make-repository dist/apt "$(KEY)" dist/relayd_*_all.deb

# Installs the package in booted Debian systems; skipped, with the reason, if the host cannot boot one. The tests of a
# file share one system and run in order, on one worker.
acceptance: $(VENV)/.tools deb
	$(PY) -m pytest -n $(shell nproc) --dist loadfile -m packaging tests/packaging $(ARGS)

# In a separate environment, because some of them need other versions of test libraries. Packages that a registry does not
# have are skipped with a message.
clients: $(VENV)/.tools
	@test -x build/clients/venv/bin/python || $(PYTHON) -m venv build/clients/venv
	@build/clients/venv/bin/python $(PIP) install --prefer-binary -c $(PINS) -e '.[test]'
	tests/clients/install.sh build/clients build/clients/venv/bin/python
	build/clients/venv/bin/python -m pytest -n $(shell nproc) --dist worksteal --durations=20 tests/clients $(ARGS)

check: style types test-debian test-newest fuzz docs-unchanged clients reproducible deb acceptance

clean:
	rm -rf $(VENV) $(DEBIAN_VENV) $(NEWEST_VENV) .stamps .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage \
	    build dist relayd.egg-info .pybuild node_modules
	find relayd tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.tools

# Set-up. A stamp is renewed if one of its prerequisites is newer.

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

$(VENV)/.runtime: setup.py $(PINS) | $(VENV)/bin/python
	@$(PY) $(PIP) install --prefer-binary -c $(PINS) -e .
	@touch $@

$(VENV)/.tools: $(VENV)/.runtime
	@echo "setting up the tools of the tests"
	@$(PY) $(PIP) install --prefer-binary -c $(PINS) -e '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.tools
	@$(PY) $(PIP) install --prefer-binary -c $(PINS) -e '.[bench]'
	@{ command -v nginx || test -x /usr/sbin/nginx; } >/dev/null && command -v wrk >/dev/null || { $(call apt_install,$(BENCH_PACKAGES)); }
	@touch $@

$(DEBIAN_VENV)/.tools: setup.py $(PINS)
	@echo "setting up $(DEBIAN_VENV) on Debian's own packages"
	@/usr/bin/python3 -c 'import ensurepip, venv, tornado, pycurl, yaml, statsd, cryptography, acme' 2>/dev/null || { $(call apt_install,$(DEBIAN_RUNTIME)); }
	@test -x $(DEBIAN_PY) || /usr/bin/python3 -m venv --system-site-packages --clear $(DEBIAN_VENV)
	@mkdir -p .stamps && $(DEBIAN_PY) tests/pins.py tools >.stamps/tools.txt
	@$(DEBIAN_PY) $(PIP) install --prefer-binary -c .stamps/tools.txt -e '.[test]'
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
