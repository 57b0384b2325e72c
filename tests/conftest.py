"""What every test stands on: shapes checked at run time, one thread, no file of the user's."""

import sys

import jaxtyping
from beartype import BeartypeConf, beartype

# Before anything imports ccnotes: from here on its annotations are checked in every call.
# An int passes for a float, as it does for mypy.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("ccnotes", f"{__name__}.check")

import pytest  # noqa: E402
import torch  # noqa: E402

pytest.register_assert_rewrite("tests.helpers")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Runs and data of a test live and die with it."""
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CCNOTES_DATA", str(tmp_path / "data"))


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
