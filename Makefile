# Two commands on a fresh machine with git and Python 3.11, 3.12 or 3.13: `make study` runs the main job, `make test` the
# tests. The newest of these that is there, works and can make a virtual environment is taken; PYTHON=… names another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, venv' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
ARGS ?=
EXTRAS ?= dev analysis
# TORCH=cpu: PyTorch without CUDA's libraries, from its own index; also cu126 and the like. Unset: PyPI's build.
TORCH ?=
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt
COMMA := ,
SPACE := $(COMMA:,=) $(COMMA:,=)

.PHONY: venv lock study study-full study-partial test test-runs test-units test-golden lint docs nano clean

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@python='$(PYTHON)'; if [ -z "$$python" ]; then echo "make: no Python 3.11, 3.12 or 3.13 with venv was found. Install \
	one (Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3.13; macOS: brew install python@3.13), or \
	name it: make PYTHON=/path/to/python3.13" >&2; exit 1; fi; echo "$$python -m venv .venv"; "$$python" -m venv .venv
ifneq ($(TORCH),)
	@$(PIP) --index-url https://download.pytorch.org/whl/$(TORCH) torch torchvision
	@$(PIP) --editable '.[$(subst $(SPACE),$(COMMA),$(EXTRAS))]'
else
	@if command -v uv >/dev/null; then VIRTUAL_ENV=.venv uv sync --active --frozen --quiet $(EXTRAS:%=--extra %); \
	else $(PIP) --editable '.[$(subst $(SPACE),$(COMMA),$(EXTRAS))]'; fi
endif
	touch $@

# After a change of the dependencies: both files, which hold the same versions, uv.lock with hashes.
lock:
	uv lock
	(sed '/^[^#]/,$$d' constraints.txt; uv export --frozen --no-hashes --no-emit-project --all-extras --no-header --no-annotate) \
		> constraints.new
	mv constraints.new constraints.txt

# The main job: which of the shipped twins keeps more of its motion under a spatial perturbation? Both models side by
# side, one thread each, and one report. Fewer states than the experiments have, so that it takes five minutes. ARGS=…
# goes to both.
study: venv
	@$(MAKE) --no-print-directory --jobs 2 study-full study-partial
	@$(BIN)/python -m perturb.analysis.coupling runs/study --output runs/study/tables
	@$(BIN)/python -m perturb.report runs/study --output runs/study/report.html

study-full study-partial: study-%: venv
	@$(BIN)/python -m perturb.run experiment=spatial_$* runs_dir=runs/study threads=1 \
		'probe_steps=[0,25,100,400,900]' $(ARGS)

# Side by side on two cores, one thread each, the longest first; what each says is printed when it ends.
test: venv
	OMP_NUM_THREADS=1 $(MAKE) --jobs 2 --output-sync=target test-units test-runs test-golden lint

test-runs: venv
	$(BIN)/python -m pytest tests/browser tests/contract tests/e2e

test-units: venv
	$(BIN)/python -m pytest tests/unit

test-golden: venv
	$(BIN)/python -m pytest tests/parity tests/golden perturb

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

# The site, in site/; a warning of mkdocs is an error.
docs: venv
	@$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The shipped weights from nothing, into runs/train/nano: hours. What is finished is not trained again. The last two are
# independent of each other.
nano: venv
	$(BIN)/python -m perturb.train experiment=train/nano_vae threads=1
	$(BIN)/torchrun --nproc_per_node 2 -m perturb.train experiment=train/nano_image threads=1
	$(BIN)/python -m perturb.train experiment=train/nano_full threads=1
	$(BIN)/python -m perturb.train experiment=train/nano_partial threads=1

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
