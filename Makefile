# Every target runs the tools in .venv and builds it if it is missing.

PYTHON ?= python3
TIMES ?= 1
ROWS ?= 100000
BIN := .venv/bin
READY := .venv/.ready
FACES := .cache/faces/free
SLOW := slow or gpu or only_chaos
# One thread in each of the two processes: more would wait for each other. Compiled modules are kept for the many processes of a run.
# xdist would start files with few tests last, and those take longest.
TESTS := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest tests -n 2 --no-loadscope-reorder

.DEFAULT_GOAL := check
.PHONY: setup demo test test-all chaos scale check lint types layers fast docs fix clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch --editable '.[render,s3,trust,notify,heic]' --group dev
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps facexlib
	touch $@

$(FACES): | $(READY)
	$(BIN)/lynx-batch models build-free-faces $@

demo: $(READY) $(FACES)
	$(BIN)/lynx-batch manifest build --photos jobs/demo/subjects --prompts jobs/demo/prompts.txt --out out/demo/manifest.parquet
	$(BIN)/lynx-batch render jobs/demo/run.yaml
	$(BIN)/lynx-batch render jobs/demo/lite.yaml
	$(BIN)/python -m jobs.demo.show out/demo out/demo-lite --out out/demo/sheet.png
	@$(BIN)/lynx-batch report out/demo-lite
	@echo "The demo's model is small: it knows the places, motions and lights that jobs/demo/model/README.md lists. With a photo of yours:"
	@echo "  $(BIN)/lynx-batch one MY.jpg 'A person looks into the camera on a beach at sunset.' --run jobs/demo/run.yaml"
	@echo "For full-size pictures, run lynx-batch models pull, then set model, faces and defaults of the run file as in"
	@echo "jobs/campaign.yaml (jobs/README.md, 'Install')."
	@$(BIN)/lynx-batch report out/demo

test: $(READY) $(FACES)
	$(TESTS) --dist loadfile -m "not ($(SLOW))"

test-all: test
	$(TESTS) --dist loadgroup -m "$(SLOW)"

chaos: $(READY) $(FACES)
	$(BIN)/pytest tests/chaos --chaos $(TIMES)
	$(BIN)/pytest tests/integration --chaos $(TIMES) -m only_chaos

scale: $(READY) $(FACES)
	$(BIN)/python -m tests.scale --rows $(ROWS)

check: lint types layers fast

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

fast: $(READY) $(FACES)
	$(BIN)/pytest tests/unit

docs: $(READY)
	$(BIN)/python -m tests.guide

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache out
