# Pianola: two commands are all. `make run` starts it, `make test` tests it.
.DEFAULT_GOAL := help
.PHONY: help run test doctor exam screenshots clean chromium
PY := .venv/bin/python

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: .venv/run.stamp ## install what is locked, start on http://localhost:5001
	@exec $(PY) server.py $(ARGS)

test: .venv/dev.stamp chromium ## install, get a browser if there is none, run every test
	@$(PY) -m pytest -q -n 2 --dist loadgroup $(ARGS) || { echo "What failed beside others, once more alone:"; $(PY) -m pytest -q --lf $(ARGS); }

doctor: .venv/run.stamp ## what works on this machine, and what to do about the rest
	@$(PY) server.py doctor

exam: .venv/dev.stamp ## how well each embedded model plays (minutes)
	@$(PY) bench/exam/run.py $(ARGS)

screenshots: .venv/dev.stamp chromium ## the README's pictures, from the running app
	@$(PY) bench/screenshots.py

clean: ## remove the environment (never the data)
	rm -rf .venv .pytest_cache .hypothesis

# uv makes .venv from the lock file; where there is no uv, pip brings it into .venv itself
.venv/uv.stamp: uv.lock pyproject.toml
	@set -e; if command -v uv >/dev/null; then [ -x $(PY) ] || uv venv -q --python '>=3.11' .venv; else \
	  for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	    command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && found=$$p && break; done; \
	  [ -n "$$found" ] || { echo "Pianola needs Python 3.11 or newer: install it, then run make again."; exit 1; }; \
	  [ -x $(PY) ] && $(PY) -m pip --version >/dev/null 2>&1 || $$found -m venv --clear .venv || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && apt-get install -y -qq python3-venv && $$found -m venv --clear .venv; }; \
	  $(PY) -m pip install -q --disable-pip-version-check uv; fi
	@touch $@

UV = $$(command -v uv || echo .venv/bin/uv)
.venv/run.stamp: .venv/uv.stamp
	@$(UV) sync -q --frozen --inexact --no-dev && touch $@

.venv/dev.stamp: .venv/uv.stamp
	@$(UV) sync -q --frozen --inexact && touch $@ .venv/run.stamp

chromium: .venv/dev.stamp ## a headless browser for the tests, if there is none
	@command -v chromium chromium-browser google-chrome >/dev/null || ls $$HOME/.cache/ms-playwright/chromium* >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || $(PY) -m playwright install --with-deps chromium
