# Two commands set everything up on a machine that has Python 3.10 or newer and make:
#   make draw CAPTION="a small red circle above a blue square"
#   make test

PYTHON ?= python3
VENV ?= .venv
CAPTION ?= a small red circle above a blue square
export CAPTION
# Threads that wait for each other fall asleep soon: spinning slows two busy cores tenfold.
export GOMP_SPINCOUNT ?= 10000
BIN := $(VENV)/bin
# The exact set is for Python 3.11 and newer; 3.10 takes the newest packages that still support it.
CONSTRAINTS := $(shell $(PYTHON) -c "import sys; print('-c constraints.txt' * (sys.version_info >= (3, 11)))")
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(CONSTRAINTS)

# Two files of tests at a time, one core each.
PYTEST := MINIDALLE_QUIET=1 $(BIN)/python -m pytest

.PHONY: help draw test quick promises book pictures gallery lab weights format clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

draw: $(VENV)/.installed  ## Draw CAPTION with the bundled weights
	@$(BIN)/minidalle draw "$$CAPTION"

test: $(VENV)/.installed-test  ## Pass every test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(PYTEST) -n 2 --dist loadfile

quick: $(VENV)/.installed-test  ## Pass the tests that train nothing
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

promises: $(VENV)/.installed-test  ## Train ci with three seeds and see that each is as good as it should be
	$(PYTEST) tests/test_promises.py --seeds 3

book: $(VENV)/.installed-test  ## Build the site into book/_build/html
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book -W -n --keep-going

pictures: $(VENV)/.installed  ## Draw the pictures of the README again, with the bundled weights
	$(BIN)/minidalle draw --n 1 --seed 0 --out book/_static/drawn.png \
	  "a small red circle above a blue square" \
	  "three large striped purple stars" \
	  "a stack of three cubes: green on top of yellow on top of red" \
	  "a yellow sign that says cat" \
	  "two large orange hearts" \
	  "a large dotted green triangle"
	$(BIN)/minidalle draw --model world --best-of 32 --n 1 --seed 0 --out book/_static/drawn_world.png \
	  "a chair made of watermelon" \
	  "a teapot made of bricks" \
	  "a penguin with rabbit ears" \
	  "canada's flag on the surface of the moon" \
	  "a tent at sunset" \
	  "a clock at 8 o'clock" \
	  "the inside of a dragon fruit on a yellow tablecloth" \
	  "an orange pyramid viewed from the left side" \
	  "the exact same red boat on the top at night on the bottom"

lab: $(VENV)/.installed-test  ## Open the chapters in Jupyter
	$(BIN)/jupyter lab notebooks

weights: $(VENV)/.installed  ## Train the bundled weights and the examiner again (about four hours of training on two cores)
	$(BIN)/minidalle examiner --out minidalle/weights/examiner
	set -e; for name in tiny world; do \
	  $(BIN)/minidalle train --preset $$name --out runs/$$name; \
	  $(BIN)/minidalle examine --model runs/$$name --curve 20 --card --json runs/$$name/scores.json; \
	  mkdir -p minidalle/weights/$$name; \
	  (cd runs/$$name && cp config.json tokenizer.json log.jsonl *.safetensors README.md $(CURDIR)/minidalle/weights/$$name/); \
	done

gallery: $(VENV)/.installed  ## Draw the book's page of pictures with the bundled weights again
	rm -f book/gallery/*.png
	$(BIN)/minidalle gallery --model world --out book/gallery

format: $(VENV)/.installed-test  ## Format the code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## Remove the virtual environment and everything built
	rm -rf $(VENV) build dist book/_build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -e ".[test]"
	@touch $@ $(VENV)/.installed
