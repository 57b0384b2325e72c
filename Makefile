# `make book` builds the book; `make test` proves it. `make help` lists the rest.

PYTHON =
PORT = 8000
built = test -d _build/html || { echo "There is no _build/html yet: run 'make book' first." >&2; exit 1; }

help:
	@echo "make book    .venv, every chapter executed, _build/html"
	@echo "make test    .venv, lint, types, every notebook, a strict rendering, unit tests, a browser"
	@echo "make serve   _build/html on http://127.0.0.1:$(PORT)/  (PORT=8000)"
	@echo "make pdf     the built book as one file, _build/ccnotes.pdf, printed by Chromium"
	@echo "make notebooks  the chapters with outputs, in plain Markdown for GitHub and Colab"
	@echo "make links   what each link to another host answers: 200 is well, 000 none; a report, no test"
	@echo "make clean   remove what was built; .venv stays"
	@echo "make readme  write the README's figure and table, and the first page's pictures, from the records"
	@echo "make pin     write the newest versions that fit to constraints.txt; prove them with make test"
	@echo "make colab   every notebook with what Colab ships: Python 3.13, several GB, a few minutes"
	@echo "make address URL=https://github.com/...  the public repository, set in every file"
	@echo "Another Python for .venv:  make book PYTHON=/path/to/python3.12"

book: .venv/book
	.venv/bin/jupyter-book build .
	@echo "$$(pwd)/_build/html/index.html"

# Each notebook is executed once, into a copy, and that copy is rendered with execution off. Two
# at a time with one thread each: threads of small networks wait for one another on a busy machine.
# (Not under _build: nbmake passes over notebooks there.) The longest two come first, so that no
# core is left with one of them at the end. All tests are one run, so that its workers load torch
# once; three at a time, since some wait: for a browser, for processes of their own.
test: .venv/book .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy ccnotes
	rm -rf _check
	mkdir _check
	echo '*' > _check/.gitignore
	cp -R _config.yml _toc.yml book _check
	CCNOTES_BOOK=1 CCNOTES_ONLY_RECALL=1 CCNOTES_RUNS="$$(pwd)/_check/runs" CCNOTES_DATA="$$(pwd)/_check/data" \
	  OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --nbmake --overwrite --nbmake-timeout=600 --durations=0 \
	  _check/book/01*.ipynb _check/book/your*.ipynb _check/book/*.ipynb
	.venv/bin/jupyter-book config sphinx _check
	PYTHONPATH=_check/book/_ext .venv/bin/sphinx-build -q -W --keep-going -D nb_execution_mode=off \
	  _check _check/_build/html
	.venv/bin/python -m pytest -q -n 3 --dist worksteal -rs tests ccnotes

serve:
	@$(built)
	@echo "http://127.0.0.1:$(PORT)/   (Ctrl-C stops it)"
	@.venv/bin/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

pdf: .venv/test
	@$(built)
	@.venv/bin/python book/_ext/pdf.py _build/html _build/ccnotes.pdf

notebooks: book
	@echo "$$(pwd)/_build/html/notebooks"

# In every file that names the public repository; `make test` holds that they agree.
address:
	@$(or $(PYTHON),python3) .ci/address.py "$$URL"

links:
	@$(built)
	@grep -ohr --include='*.html' '<a [^>]*href="https\?://[^"#]*' _build/html | sed 's/.*href="//; s/&amp;/\&/g' | \
	  grep -v /issues/new | sort -u | while read -r url; do \
	    echo "$$(curl -sL -o /dev/null -m 20 -w '%{http_code}' "$$url") $$url"; \
	  done

clean:
	rm -rf _build _check .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ccnotes book tests -name __pycache__ -prune -exec rm -rf {} +

# The README's figure and table, and the first page's pictures, from the records.
readme: .venv/book
	.venv/bin/python book/readme.py
	.venv/bin/python book/thumbnails.py

# The newest versions that suit every Python and system, for `make test` to prove. The CUDA
# packages are left out: torch names its own, where it needs them.
pin: .venv/bin/python
	.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
	  --no-annotate --extra book --extra cluster --extra peers --extra test pyproject.toml | \
	  grep -Ev '^(nvidia-|cuda-|triton)' > constraints.new
	mv constraints.new constraints.txt

colab:
	@PYTHON="$(PYTHON)" .ci/colab

.venv/bin/python:
	@if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; \
	else set -- python3.13 python3.12 python3.11 python3; fi; \
	for python in "$$@"; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    "$$python" -m venv .venv && exit 0; \
	    rm -rf .venv; exit 1; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer among: $$*. Install one, or name it: make book PYTHON=/path/to/python3.12" >&2; \
	exit 1
	@.venv/bin/python -m pip install --quiet uv || echo "No uv; going on with pip, which is slower."

# uv needs half of pip's time; where it can't work (an index only pip knows of), pip does.
uv = .venv/bin/uv pip install --quiet --python .venv/bin/python
pip = .venv/bin/python -m pip install --quiet

.venv/book: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing; the first time this fetches several GB, most of it PyTorch ..."
	@$(uv) -c constraints.txt -e ".[book]" || $(pip) -c constraints.txt -e ".[book]"
	@touch $@

.venv/test: .venv/book
	@$(uv) -c constraints.txt -e ".[book,cluster,test]" || $(pip) -c constraints.txt -e ".[book,cluster,test]"
	@# Our attacks' reference; its own requirements are years old and not needed for that.
	@$(uv) --no-deps torchattacks==3.5.1 || $(pip) --no-deps torchattacks==3.5.1
	@touch $@

.PHONY: help book test serve pdf notebooks address links clean readme pin colab
