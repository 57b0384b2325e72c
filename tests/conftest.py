"""Shapes are checked at run time; what else every test stands on is in ../conftest.py."""

import shutil
import sys

import jaxtyping
from beartype import BeartypeConf, beartype

# Before anything imports ccnotes: from here on its annotations are checked in every call.
# An int passes for a float, as it does for mypy.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("ccnotes", f"{__name__}.check")

import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.helpers")


BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


@pytest.fixture(scope="session")
def browser():
    if not (chromium := next(filter(None, map(shutil.which, BROWSERS)), None)):
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking".split()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def no_published(tmp_path, monkeypatch):
    """No published records: every run would read them all, to say how long such runs took."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ccnotes") and "PUBLISHED" in vars(module):
            monkeypatch.setattr(module, "PUBLISHED", tmp_path / "published")


@pytest.fixture
def unchecked():
    """Annotations count for nothing, as outside tests, so that our own errors are heard."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def quickly(monkeypatch, unchecked):
    """torch.compile without the compiler, which takes seconds: all else of it is the same.

    Nor are annotations checked, since that is traced, too, and takes longer than all else. A list
    of the names of the functions that were compiled.
    """
    import torch  # here, so that running notebooks does not wait for it

    whole, names = torch.compile, []

    def compile(function, **how):
        names.append(function.__name__)
        return whole(function, backend="aot_eager", **how)

    monkeypatch.setattr(torch, "compile", compile)
    return names


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line as ``python -m ccnotes`` would; returns what it prints."""

    def call(*arguments):
        from ccnotes.__main__ import main

        monkeypatch.setattr(sys, "argv", ["ccnotes", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def few_queries(monkeypatch):
    """Of Square, which takes most of the time and here finds what gradients have found."""
    from ccnotes import robustness

    monkeypatch.setattr(robustness, "QUERIES", 60)
