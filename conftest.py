"""What every test and every example of a docstring stands on: one thread, no file of the user's."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread(request):
    if all(item.get_closest_marker("rendered") for item in request.session.items):
        return  # pages need no torch
    import torch  # here, so that running notebooks does not wait for it

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk():
    """Tests kill processes, but never the power; what fsync raises they raise themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def own_folders(request, tmp_path, monkeypatch):
    """Runs and data of a test live and die with it, as do files that an example writes."""
    monkeypatch.setenv("CCNOTES_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CCNOTES_DATA", str(tmp_path / "data"))
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
