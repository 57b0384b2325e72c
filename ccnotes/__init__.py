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
        "networks models modes ranks attacks attribution virtual groups objectives evaluation "
        "onestep robustness foreign experiments monitor checkpoints alarm setup steps training "
        "swaps sweeps slurm records claims collapse ledger page moving explorers live playground "
        "cards plots plots_gaussian photographs benchmark peers growth arguments"
    ).split(),
    submod_attrs={"records": ["runs", "about"], "experiments": ["EXPERIMENTS"]},
)
