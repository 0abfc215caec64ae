# What one does with this project; `make help` lists it.
PYTHON ?= python3
# Each Python that is named gets an environment of its own, so that none replaces another.
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venvs/$(notdir $(PYTHON)))
# Klaviyo's OpenAPI file describes one revision, which this SDK speaks.
PRISM_SDK := 24.0.0

RUN := $(VENV)/bin/python
OTHER_PEERS := $(filter-out tests/peers/test_prism.py,$(wildcard tests/peers/test_*.py))
PYTHON_PEERS := $(wildcard tests/peers/requirements.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench sdks peers peers-test env python clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 picks the Python; ARGS="-k name" goes to the program that is run.'

demo: env  ## a day in a shop's life, audited; LIVE=1 reads the account of KLAVIYO_API_KEY instead
	@LIVE=$(LIVE) $(RUN) examples/shop_day.py $(ARGS)

test: env  ## all tests, two at a time; ARGS="-n 0 -s" shows figures; missing peers are skipped with the reason
	@$(RUN) -m pytest -n 2 $(ARGS)

lint: env  ## ruff and mypy
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy --strict
	$(RUN) -m mypy --strict tools/*.py benchmarks

bench: env  ## the numbers of the design, as ratios against peers
	@$(RUN) -m benchmarks $(ARGS)

sdks: python  ## the contract tests on the oldest, the newest and three more SDKs, in .venvs/
	@$(PYTHON) tools/sdk_matrix.py $(ARGS)

peers: env  ## install what the peer tests talk to: Prism, strace, faketime, Chromium, and SDK 24.0.0 in .venvs/
	@tools/peers.sh
	@$(PYTHON) tools/sdk_matrix.py --build --sdk $(PRISM_SDK)
ifneq ($(PYTHON_PEERS),)
	@$(PYTHON) tools/environment.py $(VENV) -r $(PYTHON_PEERS)
endif

peers-test: peers  ## the tests against peers; Prism's run on the SDK of the OpenAPI file's revision
	@.venvs/sdk-$(PRISM_SDK)/bin/python -m pytest tests/peers/test_prism.py $(ARGS)
ifneq ($(OTHER_PEERS),)
	@$(RUN) -m pytest $(OTHER_PEERS) $(ARGS)
endif

env: python  # the environment, built if it is not there or pyproject.toml has changed
	@$(PYTHON) tools/environment.py $(VENV) -e '.[dev]'

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'There is no $(PYTHON) here: install Python 3.11 or newer (apt-get install python3' \
	    'python3-venv), or name one that is there: make PYTHON=python3.12' >&2; exit 1; }

clean:  ## remove caches and what was built
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -not -path './.peers/*' -prune -exec rm -rf {} +

distclean: clean  ## and the environments and the peers
	@rm -rf .venv .venvs .peers
