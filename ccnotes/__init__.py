"""Cross-class features in adversarial training: the package behind the executable book.

Modules load when they are first used, so that :mod:`ccnotes.gaussian` works without torch.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("ccnotes")
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=(
        "types files gaussian checks planted parts verdicts tables weights data devices "
        "networks models modes attacks attribution objectives evaluation robustness foreign "
        "experiments monitor checkpoints setup steps training sweeps slurm records claims moving "
        "plots plots_gaussian benchmark peers growth arguments"
    ).split(),
    submod_attrs={"records": ["runs", "about"], "experiments": ["EXPERIMENTS"]},
)
