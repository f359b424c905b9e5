# Two commands: `make demo` runs the main job on the embedded data, `make test` passes the tests. Both install first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow test-deploy lint docs ci audit lock bench clean
demo: $(INSTALLED)
	$(BIN)/kd-hpo run studies/digits.yaml

# Files of tests side by side, on two cores.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Faults and a cluster, with real processes and real kills, and pages in a real browser.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# The image of docker/ built and its compose cluster up, with kills, where podman or docker is; an hour where all is to be fetched.
# KD_HPO_TORCH_INDEX names another index of torch's builds, where pytorch.org does not answer.
test-deploy: $(INSTALLED)
	$(BIN)/python -m pytest -m slow -rs -s tests/docker/test_deploy.py

# What is short of studies/bench: minutes on two cores that do nothing else.
bench: $(INSTALLED)
	$(BIN)/python studies/bench/step.py --pairs 25
	$(BIN)/python studies/bench/data.py
	$(BIN)/python studies/bench/teacher.py
	$(BIN)/python studies/bench/study.py --trials 20
	$(BIN)/python studies/bench/scale.py --trials 200 --mirrored 20

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python studies/reference/build.py build/docs

ci: lint test

# Known vulnerabilities in what is installed: one line. It fails too where a package could not be looked up.
audit: $(INSTALLED)
	@$(BIN)/python -m tests.security.audit

# What the image of docker/ installs, with hashes; to be renewed when dependencies change.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	$(BIN)/uv pip compile --quiet pyproject.toml --extra study --extra cluster --extra dashboards --extra timm --constraint docker/torch.txt --excludes docker/cuda.txt \
	  --no-emit-package torch --no-emit-package torchvision --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --generate-hashes --no-annotate --custom-compile-command 'make lock' --output-file docker/requirements.lock

# torch and torchvision first and in one command, so that the two fit each other.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
