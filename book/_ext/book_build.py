"""What the build needs beyond Jupyter Book's own settings."""

import hashlib
import importlib
import os
import re
import shutil
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from sphinx.errors import ExtensionError
from sphinx.util import logging

AT_ONCE = 2  # chapters; each takes a core, and up to 1.2 GB of memory
LONGEST = ("book/01_adversarial_training", "book/your_own_model")  # first, so that none ends alone


def key_the_cache(app, config):
    """Keep notebook outputs only while the package and its versions stay the same.

    Jupyter Book's cache sees changes of a notebook alone. It is a setting of the environment,
    so Sphinx also reads every page again when it changes.
    """
    root = Path(importlib.import_module("ccnotes").__file__).parent
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += Path(app.srcdir).glob("constraints.txt")
    key = hashlib.sha256()
    for path in sorted(files):
        key.update(str(path).encode() + path.read_bytes())
    folder = Path(app.outdir).parent / ".jupyter_cache" / key.hexdigest()[:12]
    config.nb_execution_cache_path = str(folder)
    for old in folder.parent.glob("*"):
        if old != folder:
            shutil.rmtree(old)


def execute(app, env, pages):
    """Fill the cache, from which the pages are read next, by several chapters at once.

    Threads do for that: each waits for a kernel, which is a process of its own.
    """
    settings = env.mystnb_config
    if settings.execution_mode != "cache":
        return
    cache, lacking = get_cache(settings.execution_cache_path), []
    for page in sorted(pages, key=lambda page: page not in LONGEST):
        if (path := Path(env.doc2path(page))).suffix == ".ipynb":
            content = [path.read_text(encoding="utf-8")]
            app.emit("source-read", page, content)  # the cache knows cells by their tags, too
            notebook = nbformat.reads(content[0], as_version=4)
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                lacking.append((path, notebook))

    def executed(todo):
        path, notebook = todo
        limit = settings.execution_timeout
        return path, single_nb_execution(notebook, path.parent, limit, allow_errors=False)

    with ThreadPool(AT_ONCE) as pool:
        for path, done in pool.imap_unordered(executed, lacking):
            if done.err:
                raise ExtensionError(f"{path}: {done.err}")
            logging.getLogger(__name__).info(f"executed in {done.time:.0f} s: {path}")
            bundle = CacheBundleIn(done.nb, str(path), data={"execution_seconds": done.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def with_outputs(app, page, content):
    """A notebook as the cache has it; without this a build would write recalled ones bare."""
    settings = app.env.mystnb_config
    if settings.execution_mode == "cache" and app.env.doc2path(page).endswith(".ipynb"):
        with suppress(KeyError):  # not executed yet
            notebook = nbformat.reads(content[0], as_version=4)
            cache = get_cache(settings.execution_cache_path)
            content[0] = nbformat.writes(cache.merge_match_into_notebook(notebook)[1])


def set_the_address(app, config):
    """Where GitHub publishes the book of this repository."""
    owner, name = urlsplit(config.html_theme_options["repository_url"]).path.strip("/").split("/")
    config.html_baseurl = f"https://{owner.lower()}.github.io/{name}/"  # browsers ask so
    config.ogp_site_url, config.ogp_site_name = config.html_baseurl, config.html_title
    # The page for wrong addresses is shown at any depth, so its own links start at the root.
    config.notfound_urls_prefix = site = urlsplit(config.html_baseurl).path
    config.notfound_context["body"] = config.notfound_context["body"].replace("{site}", site)


def tidy_descriptions(app, pagename, templatename, context, doctree):
    """Previews quote a page's first words: without how long it takes to read, and in one piece."""
    for paragraph in list(doctree.findall(nodes.paragraph)) if doctree else []:
        if paragraph.astext().startswith("Reading time"):
            paragraph.parent.remove(paragraph)
        else:  # the page itself is written already
            paragraph[:] = [nodes.Text(paragraph.astext())]


def tidy_scripts(app, pagename, templatename, context, doctree):
    """No widget states, dead without a kernel; nothing twice ("THEBE_JS_URL already declared").

    And MathJax, 1.1 MB, only where a formula is: Sphinx gives it to the first page, too, since
    other pages are listed there.
    """
    files = context.get("script_files", [])
    once = {(f.filename or "", f.priority, str(f.attributes)): f for f in files}
    formulas = 'class="math' in (context.get("body") or "")
    needless = re.compile("widget" if formulas else "widget|(?i:mathjax)")
    files[:] = [f for f in once.values() if not needless.search(f"{f.filename}{f.attributes}")]


def tidy_signatures(app, what, name, obj, options, signature, returns):
    """No markup that Sphinx leaves of types in signatures of dataclasses, no "<factory>"."""
    if signature:
        return signature.replace("~", "").replace("<factory>", "..."), returns


def copy_mathjax(app, error):
    """MathJax beside the pages, so that none asks another host for it; 3 of the package's 24 MB."""
    if error or app.builder.format != "html":
        return
    package = Path(importlib.import_module("sphinx-mathjax-offline").__file__).parent
    for part in ("tex-chtml.js", "output/chtml", "input/tex/extensions"):
        source = package / "static/mathjax" / part
        target = Path(app.outdir, "_static/mathjax", part)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def search_where_it_is(app, error):
    """The search's scripts, which grow with the book: on its own page alone, after the paint."""
    if error or app.builder.format != "html":
        return
    names = "searchtools|language_data|searchindex|sections"
    scripts = re.compile(rf'<script (src="[^"]*(?:{names})\.js[^"]*")></script>')
    for page in Path(app.outdir).rglob("*.html"):
        kept = r"<script defer \1></script>" if page.name == "search.html" else ""
        text = page.read_text()
        if (tidied := scripts.sub(kept, text)) != text:
            page.write_text(tidied)


def setup(app):
    os.environ["CCNOTES_BOOK"] = "1"  # kernels inherit it: Altair charts become moving figures
    # Threads of small networks wait for one another: on a busy machine one is many times faster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app.connect("config-inited", key_the_cache, priority=1)
    app.connect("config-inited", set_the_address, priority=1)
    app.connect("env-before-read-docs", execute)
    app.connect("source-read", with_outputs, priority=900)  # cells are tagged by then
    app.connect("html-page-context", tidy_descriptions, priority=1)
    app.connect("html-page-context", tidy_scripts, priority=900)
    app.connect("autodoc-process-signature", tidy_signatures)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", search_where_it_is, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
