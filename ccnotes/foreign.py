"""Networks of other people by name, and their checkpoints from one epoch to the next."""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ccnotes.attacks import PGD
from ccnotes.attribution import cas, class_similarity
from ccnotes.checks import few
from ccnotes.data.photos import loaded_before
from ccnotes.evaluation import Evaluation, evaluate
from ccnotes.models import Headed, Network
from ccnotes.networks import NETWORKS, TRANSFORMERS, network_called, of_timm
from ccnotes.types import Labels, Pixels
from ccnotes.weights import with_weights

SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors", ".pkl", ".th", ".t7")
NUMBER = re.compile(r"\d+")
EPOCH = re.compile(r"(.*?(?<![a-z])ep(?:och)?s?[=_\-. ]*)\d+", re.IGNORECASE)
SCALARS = (
    *("clean_accuracy", "robust_accuracy", "robust_loss", "clean_cas", "robust_cas"),
    *("robust_nc1", "robust_nc2", "robust_nc3"),
)


def network_named(name: str, num_classes: int, image_size: int = 32) -> nn.Module:
    """A new network, by a name for the command line; its code is run.

    ``"timm:NAME"``, with timm's arguments as in :class:`ccnotes.networks.FromTimm`;
    ``"MODULE:NAME"`` or ``"FILE.py:NAME"``, a function or class that is called with
    ``num_classes`` where it takes that; or one of :func:`ccnotes.networks.network_called`, whose
    width follows it, as in ``"preactresnet,64"``. Raises ValueError where there is none.

    >>> network_named("torchvision.models:squeezenet1_1", num_classes=7).num_classes
    7
    """
    plain, _, width = name.partition(",")
    if plain in NETWORKS or plain in TRANSFORMERS:
        if not width.isdecimal():
            raise ValueError(f"network={name!r} has no width: write it behind, as in {plain},64.")
        return network_called(plain, num_classes, int(width), image_size=image_size)
    where, _, what = name.rpartition(":")
    if where == "timm":
        return of_timm(what, num_classes, image_size=image_size)
    if not (where and what):
        raise ValueError(
            f"network={name!r} is no network: give timm:NAME, torchvision.models:NAME or another "
            f"MODULE:NAME, FILE.py:NAME, or one of "
            f"{', '.join([*NETWORKS, *TRANSFORMERS])} with its width, as in preactresnet,64."
        )
    make: Callable[..., Any] | None = getattr(module_of(where), what, None)
    if make is None:
        raise ValueError(f"network={name!r}: {where} has nothing that is called {what}.")
    try:
        takes = "num_classes" in inspect.signature(make).parameters
        takes |= where.startswith("torchvision.")  # whose functions pass on what they are given
        made = make(num_classes=num_classes) if takes else make()
    except Exception as error:
        raise ValueError(f"network={name!r} cannot be made ({error}).") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"network={name!r} gives {type(made).__name__}, no torch.nn.Module.")
    return made


def module_of(where: str) -> Any:
    """The module of that name, or in that file; a file may import what lies beside it."""
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module
    except Exception as error:  # whatever that code raises
        raise ValueError(
            f"{where} cannot be imported ({type(error).__name__}: {error})."
        ) from error


def split_network(
    network: nn.Module,
    *,
    head: str | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Network | Headed:
    """The network as features and head: one of ours as it is, any other in :class:`Headed`."""
    return network if isinstance(network, Network) else Headed(network, head, mean=mean, std=std)


def checkpoints(where: Path | str) -> dict[int, Path]:
    """The files of a series by their epochs: those of a folder, or those that a pattern matches.

    Their names must be one name but for numbers; the epoch is the number behind "epoch" or "ep",
    else the one that differs; that of a single file without a number is 0. Raises
    FileNotFoundError where there is no file, and ValueError where the names leave open which files
    are one series, or which number is the epoch.

    >>> for name in ("epoch_5.pt", "epoch_10.pt", "notes.txt"):
    ...     _ = Path(name).write_text("")
    >>> {epoch: path.name for epoch, path in checkpoints(".").items()}
    {5: 'epoch_5.pt', 10: 'epoch_10.pt'}
    """
    folder = Path(where).expanduser()
    found = folder.iterdir() if folder.is_dir() else map(Path, glob(str(folder), recursive=True))
    files = [path for path in sorted(found) if path.is_file() and path.suffix in SUFFIXES]
    if not files:
        raise FileNotFoundError(
            f"{where} has no checkpoints, files that end in {', '.join(SUFFIXES)}: give a folder "
            f"or a pattern in quotes, such as 'runs/epoch_*.pt'."
        )
    if len(files) == 1:
        return by_epoch(files)
    alike: dict[str, list[Path]] = {}
    for path in files:
        alike.setdefault(NUMBER.sub("*", path.stem) + path.suffix, []).append(path)
    numbered = {name: paths for name, paths in alike.items() if "*" in name}
    several = {name: paths for name, paths in numbered.items() if len(paths) > 1} or numbered
    if len(several) != 1:
        kinds = [f"{name} ({len(paths)})" for name, paths in (several or alike).items()]
        raise ValueError(
            f"{where} holds {few(kinds)}, no single series whose names differ by the epoch: choose "
            f"one by a pattern, such as '{folder if folder.is_dir() else folder.parent}/"
            f"{next(iter(several or alike))}'."
        )
    ((_, paths),) = several.items()
    return by_epoch(paths)


def by_epoch(paths: Sequence[Path]) -> dict[int, Path]:
    """Files whose names differ by numbers alone, in the order of the epochs."""
    numbers = [[int(n) for n in NUMBER.findall(path.stem)] or [0] for path in paths]
    marked = [len(NUMBER.findall(m[1])) for m in [EPOCH.match(paths[0].stem)] if m]
    varying = [i for i, column in enumerate(zip(*numbers, strict=True)) if len({*column}) > 1]
    places = marked or varying or [len(numbers[0]) - 1]
    if len(places) > 1:
        raise ValueError(
            f"{paths[0].name} and {paths[-1].name} differ in {len(places)} numbers, of which one "
            f"must be the epoch: choose files that differ in one by a pattern."
        )
    found = {row[places[0]]: path for row, path in zip(numbers, paths, strict=True)}
    if len(found) < len(paths):
        twice = [path.name for path in paths if path not in found.values()]
        raise ValueError(f"{few(twice)} and others have the same epoch: choose by a pattern.")
    return dict(sorted(found.items()))


def series(
    network: nn.Module,
    where: Path | str,
    images: Pixels,
    labels: Labels,
    attack: PGD,
    *,
    head: str | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    prefix: str | None = None,
    seed: int = 0,
    draws: int = 0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """What a series of checkpoints of one network does with images: a row for each epoch.

    ``where`` is a folder or a pattern; see :func:`checkpoints`. ``network`` gives the architecture;
    ``head``, ``mean`` and ``std`` are those of :class:`ccnotes.models.Headed`, ``prefix`` that of
    :func:`ccnotes.weights.load_weights`, the rest that of :func:`ccnotes.evaluation.evaluate`.

    Columns are the numbers of :class:`ccnotes.evaluation.Measures`, under names such as
    ``robust_accuracy``, and, on attacked images as well: ``cas_features``, CAS of the epoch's
    features with the head of the best epoch, ``cas_head``, CAS of the best epoch's features with
    the epoch's head (the best has the highest robust accuracy on these images), and
    ``head_cas``, the positive cosines of the head's rows, summed; with ``draws`` of the bootstrap
    also ``cas_low`` and ``cas_high``, between which lie 95 % of those of ``robust_cas``.
    ``left_out`` says what else the file held. Raises ValueError for files that do not fit.

    >>> from ccnotes.models import ConvNet
    >>> network = ConvNet(2, width=2)
    >>> for epoch in (1, 2):
    ...     torch.save({"net": network.state_dict(), "mean": torch.ones(3)}, f"epoch_{epoch}.pt")
    >>> images, labels = torch.randint(256, (4, 3, 8, 8)).byte(), torch.arange(4) % 2
    >>> found = series(network, "epoch_*.pt", images, labels, PGD(eps=0.0, steps=1))
    >>> found.epoch.tolist(), bool((found.cas_features == found.robust_cas).all())
    ([1, 2], True)
    """
    rows: list[dict[str, Any]] = []
    means: list[Tensor] = []
    heads: list[Tensor] = []
    for epoch, path in tqdm(checkpoints(where).items(), "checkpoints", unit="file"):
        loaded, left_out = with_weights(network, path, prefix=prefix)
        model = split_network(loaded, head=head, mean=mean, std=std).to(images.device)
        found: Evaluation = evaluate(
            model, images, labels, attack, seed=seed, draws=draws, batch_size=batch_size
        )
        scalars = {name: found.flat()[name].item() for name in SCALARS}
        head_cas = cas(found.robust.head_similarity).item()
        rows.append({"epoch": epoch} | scalars | {"head_cas": head_cas})
        if found.robust.cas_draws is not None:
            quantiles = found.robust.cas_draws.quantile(torch.tensor([0.025, 0.975])).tolist()
            rows[-1] |= dict(zip(("cas_low", "cas_high"), quantiles, strict=True))
        rows[-1] |= {"file": path.name, "left_out": ", ".join(left_out)}
        means.append(found.robust.class_means)
        heads.append(model.head.weight.detach().cpu().to(means[-1].dtype))
    table = pd.DataFrame(rows)
    best = int(table.robust_accuracy.to_numpy().argmax())
    swaps = {
        "cas_features": [cas(class_similarity(mean * heads[best])).item() for mean in means],
        "cas_head": [cas(class_similarity(means[best] * weight)).item() for weight in heads],
    }
    for place, (name, values) in enumerate(swaps.items(), len(SCALARS) + 1):
        table.insert(place, name, values)
    return table


def shipped() -> tuple[str, str] | None:
    """The standard ResNet-18 on CIFAR-10 that the wheel of pyautoattack ships: network, checkpoint.

    The names are those of :func:`network_named` and :func:`checkpoints`; None where it is missing.

    >>> shipped() is None or len(shipped()) == 2
    True
    """
    spec = importlib.util.find_spec("pyautoattack")
    if spec is None or spec.origin is None:
        return None
    examples = Path(spec.origin).parent / "examples"
    found = examples / "resnet.py", examples / "model_test.pt"
    if not all(path.is_file() for path in found):
        return None
    return f"{found[0]}:ResNet18", str(found[1])


def at_hand() -> tuple[str, str, str] | None:
    """A network of other people on photographs, where both are here: data, network, checkpoint.

    CIFAR-10, loaded before, and the network of :func:`shipped`. The data's name is one of
    :func:`ccnotes.data.photos.load_photos`; None where one of the two is missing.

    >>> at_hand() is None or len(at_hand()) == 3
    True
    """
    data = next((name for name in ("cifar10", "cifar10-jpeg") if loaded_before(name)), None)
    found = shipped()
    return None if data is None or found is None else (data, *found)
