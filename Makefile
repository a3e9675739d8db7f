# make demo: set up and run the main job on embedded data. make test: set up and pass the tests.

PYTHON_IN_VENV := .venv/bin/python

.PHONY: setup demo test lint lock image image-test cluster-test flink-test clean

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

# After a change of the ranges in setup.py or pyproject.toml: resolve them anew for every Python that is supported.
lock: COMPILE = PATH="$$PATH:.runtime/uv/bin" uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade --quiet
lock: setup
	@$(COMPILE) setup.py --output-file requirements.lock
	@$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

# With docker, podman or buildah. IMAGE_ARGS are further options of the build, e.g. --build-arg BASE_IMAGE=….
IMAGE ?= finetune
image:
	@sh scripts/image.sh $(IMAGE) $(if $(CUDA),--build-arg CUDA=$(CUDA)) $(IMAGE_ARGS)

# Runs the compiled pipeline in containers; needs Docker's engine, or podman's socket in DOCKER_HOST.
image-test: setup image
	@$(PYTHON_IN_VENV) -m tests.kubeflow.containers $(IMAGE)

# Accepts the cluster that KUBECONFIG and KFP_HOST name, with IMAGE as it pulls it; `python -m tests.cluster --help` lists more.
cluster-test: setup
	@IMAGE=$(IMAGE) $(PYTHON_IN_VENV) -m tests.cluster

# Runs Beam's stages on a Flink that is brought up here; needs Java 17, and Maven the first time. QUICK=1 kills nothing.
flink-test: setup
	@QUICK=$(QUICK) $(PYTHON_IN_VENV) -m tests.flink

clean:
	rm -rf .venv .runtime .demo
