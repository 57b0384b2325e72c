"""Shapes are checked at run time; what else every test stands on is in ../conftest.py."""

import jaxtyping
from beartype import BeartypeConf, beartype

# Before anything imports ccnotes: from here on its annotations are checked in every call.
# An int passes for a float, as it does for mypy.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("ccnotes", f"{__name__}.check")

import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.helpers")
