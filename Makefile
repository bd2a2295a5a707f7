# Everything runs in .venv; the first target that needs it sets it up, again when the requirements change.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
EMBED := import numpy; from opustomo.analysis.latents.dimension_reduction import embed_latents; \
	embed_latents(numpy.random.default_rng(0).normal(size=(32, 4)).astype('f4'))

.PHONY: setup test check lint format typecheck demo cell docs bench report-assets clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "opustomo needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(PY) -c "$(EMBED)"  # so that Numba compiles UMAP now, once, and not in each process of tests
	touch $(READY)

# one process of tests per core, each with one thread; a file's tests stay together and share what they set up; files
# come in the order of tests/conftest.py, and what Python compiles is kept for the next run
test: check
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
		$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: lint typecheck

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: $(READY)
	$(PY) -m mypy

demo: $(READY)
	$(PY) -m opustomo demo -o demo

# from simulated tilt series to a clean set, reduced to what two cores do in about ten minutes
cell: $(READY)
	$(PY) benchmarks/cell.py --reduced -o cell --pick-workers 2

# the documentation site in build/site, with its own requirements on top; pictures and numbers of the tutorials come from
# runs that it makes: of the first tutorial always, of the second if RIBOSOMES names the folder of the data
docs: $(VENV)/docs-ready
	$(PY) docs/tutorials/build.py run tutorial --work build/tutorial
	$(if $(RIBOSOMES),$(PY) docs/tutorials/build.py run ribosomes --work build/ribosomes --data $(RIBOSOMES))
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

$(VENV)/docs-ready: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $(VENV)/docs-ready

bench: $(READY)
	@set -e; for script in benchmarks/*.py; do \
		test -e "$$script" || { echo "no benchmarks yet"; exit 0; }; \
		echo "$$script"; $(PY) "$$script"; \
	done

# the bundle of the libraries of the report, from opustomo/report/vendor/package-lock.json; needs Node.js and npm
report-assets:
	cd opustomo/report/vendor && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent build

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
