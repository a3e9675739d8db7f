# make demo: set up and run the main job on embedded data. make test: set up and pass the tests.

FINETUNE := .venv/bin/finetune
PYTHON_IN_VENV := .venv/bin/python

.PHONY: setup demo test lint lock clean

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

demo: setup
	@$(PYTHON_IN_VENV) -m scripts.demo

test: setup
	@$(PYTHON_IN_VENV) -m pytest

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

# After a change of the ranges in setup.py: resolve them anew for every Python that is supported.
lock: setup
	@PATH="$$PATH:.runtime/uv/bin" uv pip compile setup.py --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf .venv .runtime .demo
