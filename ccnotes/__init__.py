"""Cross-class features in adversarial training: the package behind the executable book.

Modules load when they are first used, so that :mod:`ccnotes.gaussian` works without torch.
"""

from importlib import import_module
from importlib.metadata import version

__version__ = version("ccnotes")

_HOMES = {"runs": "records", "EXPERIMENTS": "experiments", "about": "records"}
_MODULES = (
    "types gaussian planted verdicts tables data devices models attacks objectives attribution "
    "evaluation training experiments records benchmark moving plots plots_gaussian"
).split()
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"ccnotes.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"ccnotes.{name}")
    raise AttributeError(f"module 'ccnotes' has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
