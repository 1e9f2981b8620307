# Everything runs in .venv, which each target makes or updates itself.
PYTHON ?= python3
JOBS ?= 2
# versions to install; empty for the newest that pyproject.toml allows
CONSTRAINTS ?= constraints.txt
SIMCSE_DATA ?= ../shared/data

# a sentence a line, for benchmarks
TEXTS ?= $(SIMCSE_DATA)/wiki/enwiki2015_sents_1m.txt.gz

VENV := .venv
BIN := $(VENV)/bin

# real data for tests and benchmarks, if there is any; what needs it is skipped without
ifneq ($(wildcard $(SIMCSE_DATA)/.),)
export SIMCSE_DATA := $(abspath $(SIMCSE_DATA))
endif

.PHONY: help quickstart data test coverage mutation soak lint types docs bench clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf '  make %-12s %s\n' "$$name" "$$what"; done

quickstart: $(VENV)/.installed-quickstart  ## train, evaluate and search on Python's own documentation (minutes, no downloads but packages)
	@$(BIN)/python -m simcse quickstart

data: $(VENV)/.installed-quickstart  ## fetch STS, SICK and the paper's training files into data/ from the Hugging Face hub
	@$(BIN)/simcse data sts --output data

test: $(VENV)/.installed-dev  ## run the whole suite
	@command -v chromedriver > /dev/null || echo "the page of simcse serve is not tested; with a browser it is: \
	apt-get install chromium chromium-driver" >&2
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# the tests of what keeps data: index, checkpoint, run folder, files of vectors
KEEPERS := tests/test_files.py tests/test_file_errors.py tests/search tests/formats tests/encoder/bulk tests/encoder/export \
	$(wildcard tests/encoder/test_*.py) $(patsubst %,tests/training/test_%.py,interrupt resume run run_dir run_lock) \
	$(patsubst %,tests/reliability/test_%.py,checkpoint_files full_disk)

coverage: $(VENV)/.installed-dev  ## run the tests of what keeps data; each branch of it must be covered
	@rm -rf build/coverage
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist loadfile $(KEEPERS)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

mutation: $(VENV)/.installed-dev  ## change losses and what keeps data, a place at a time, and see a test fail (hours; ONLY='simcse.files.*' for less)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) mutmut==3.8.1
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python tests/mutation.py --jobs $(JOBS) $(if $(ONLY),--only '$(ONLY)')

soak: $(VENV)/.installed-dev  ## run the long forms of tests: damage, fuzzed input, kills, power cuts, a model, a service (SOAK_MINUTES=60 SOAK_SEED=n)
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python tests/soak.py

lint: $(VENV)/.installed-dev  ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## check types
	@$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## build the pages into build/docs; a warning is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs -b html . build/docs

bench: $(VENV)/.installed-bench  ## run every benchmark; each prints a ratio to its peer (needs SIMCSE_DATA)
	$(BIN)/python benchmarks/encode.py --texts $(TEXTS)
	$(BIN)/python benchmarks/rate_over_length.py --texts $(TEXTS) --figures docs/figures
	$(BIN)/python benchmarks/short_text.py
	$(BIN)/python benchmarks/instruction_sets.py
	$(BIN)/python benchmarks/train_step.py --texts $(TEXTS)
	$(BIN)/python benchmarks/same_losses.py --texts $(TEXTS) --dev $(SIMCSE_DATA)/senteval/STS/STSBenchmark/sts-dev.csv
	$(BIN)/python benchmarks/growth.py --texts $(TEXTS) --figures docs/figures
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/corpus.py --texts $(TEXTS) --figures docs/figures
	$(BIN)/python benchmarks/search.py --texts $(TEXTS)
	$(BIN)/python benchmarks/retrieval.py --data_dir $(SIMCSE_DATA)
	$(BIN)/python benchmarks/serve.py --texts $(TEXTS)
	$(BIN)/python benchmarks/filtered.py --texts $(TEXTS)
	$(BIN)/python benchmarks/results.py

clean:  ## remove the environment, caches and built packages; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $$($(PYTHON) --version) found, 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[$*]'
	@touch $@
