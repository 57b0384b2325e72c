"""Weights as other programs save them."""

import codecs
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ccnotes.checks import few, warn

# What an optimiser's state is called, or what it has for each weight.
MOMENT = re.compile(
    r"(opt|optim|optimi[sz]er)s?([-_]?(states?|g|d|dicts?|state_dicts?))*|exp_avg(_sq)?|"
    r"max_exp_avg_sq|momentum_buffer|square_avg|grad_avg|acc_delta",
    re.IGNORECASE,
)
NORMALISER = re.compile(r"(mean|std|mu|sigma)$", re.IGNORECASE)


def load_weights(network: nn.Module, path: Path | str, *, prefix: str | None = None) -> nn.Module:
    """A copy of ``network`` with the weights of a checkpoint, in eval mode.

    That is a .safetensors file or one of ``torch.save``, which is read without executing any
    code. The weights may lie anywhere in nested dictionaries, and all their names may begin with
    what a wrapper puts there, as ``DataParallel`` puts ``module.``. What lies beside them is left
    out with a warning that names it; what an optimiser keeps for each weight is never taken for
    weights. Raises ValueError for weights that do not fit, naming what does not, for NaN, and where
    several sets that differ fit, such as raw weights and their average; ``prefix`` chooses one: the
    keys down to it, joined by dots.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "weights.pt"
    >>> network = nn.Linear(2, 2)
    >>> torch.save({"net": network.state_dict(), "ema": nn.Linear(2, 2).state_dict()}, path)
    >>> torch.equal(load_weights(network, path, prefix="net.").weight, network.weight)
    True
    """
    model, extra = with_weights(network, path, prefix=prefix)
    if extra:
        warn(f"{path} holds more than the weights; left out: {few(extra)}.")
    return model


@torch.inference_mode(False)
def with_weights(
    network: nn.Module, path: Path | str, *, prefix: str | None = None
) -> tuple[nn.Module, list[str]]:
    """:func:`load_weights`, and the keys beside the weights that were left out, without a warning.

    Of what may be the mean or the standard deviation of the channels the values are there, too,
    as it is for the caller to normalise by them.
    """
    path = Path(path)
    own = {part for name in network.state_dict() for part in name.split(".")}
    whole = list(tensors(read(path)))
    entries = [entry for entry in whole if not is_moment(entry[1], own)]
    found, homes = {k: v for _, k, v in entries}, {k: home for home, k, _ in entries}
    if whole and not found:
        raise ValueError(
            f"{path} holds what an optimiser keeps ({few([key for _, key, _ in whole])}), no "
            f"weights: take the file with those of the network."
        )
    if not found:
        raise ValueError(f"{path} holds no state dict, that is, tensors by name.")
    prefix = f"{prefix.rstrip('.')}." if prefix else prefix
    fits = fitting(network, found, prefix)
    if not fits:
        raise ValueError(f"{path} does not fit: {misfit(network, found, prefix)}")
    (model, used), *others = fits.values()
    weights = model.state_dict()
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {few(broken)}: take an earlier checkpoint."
        )
    copies = set(used)
    for other, keys in others:
        if not all(torch.equal(v, weights[name]) for name, v in other.state_dict().items()):
            raise ValueError(
                f"{path} holds several sets of weights that fit and differ, such as raw ones and "
                f"their average. Choose one by prefix=..., of {', '.join(map(repr, fits))}."
            )
        copies.update(keys)
    counters = {name for name, value in weights.items() if not value.is_floating_point()}
    if coded := [k for k, name in used.items() if name not in counters and not is_wide(found[k])]:
        raise ValueError(
            f"{path} holds {found[coded[0]].dtype} in {few(coded)}, which the network has as "
            f"floating-point numbers: they are quantised; dequantise first."
        )
    beside = {homes[key] for key in used}
    alike = [start for start in starts(weights, found) if start and prefix is None]
    under = prefix or ""
    near = {key for key in found if homes[key] in beside and key.startswith(under)}
    near |= {key for key in found if key.startswith(tuple(alike))}
    return model, [shown(key, found[key]) for key in found if key in near - copies]


def is_moment(key: str, own: Collection[str] = ()) -> bool:
    """Whether a tensor of this key is what an optimiser keeps, by the words in it.

    Words that the network itself has in its names, ``own``, tell nothing.

    >>> is_moment("optimizer.state.0.exp_avg"), is_moment("net.conv.weight")
    (True, False)
    """
    return any(MOMENT.fullmatch(part) for part in key.split(".") if part not in own)


def shown(key: str, value: Tensor) -> str:
    """A key that was left out, with its values where they may be what images are normalised by.

    >>> shown("rmodel.mean", torch.tensor([0.5, 0.4, 0.4])), shown("step", torch.tensor(3))
    ('rmodel.mean (0.5, 0.4, 0.4)', 'step')
    """
    if not NORMALISER.search(key) or value.numel() not in (1, 3):
        return key
    return f"{key} ({', '.join(f'{v:.4g}' for v in value.flatten().tolist())})"


def is_wide(values: Tensor) -> bool:
    """Whether these are real floating-point numbers of 16 bits or more.

    >>> is_wide(torch.ones(2).half()), is_wide(torch.ones(2).char())
    (True, False)
    """
    return values.is_floating_point() and values.itemsize > 1


def read(path: Path) -> Any:
    """What the file holds. Raises ValueError where it is none that :func:`load_weights` reads."""
    if path.is_file():
        check_kind(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # what torch.save wrote before 2020 is none
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"{damaged} has another checksum than when it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own advice is to execute what the file says, which is not done here.
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        why = str(error).partition(".")[0] if "weights_only" in str(error) else error
        if stranger:
            why = f"{stranger[1]} lies beside the weights, and to read it could execute code"
        raise ValueError(
            f"{path} cannot be read as weights ({why}). What can: a file that "
            f"torch.save(network.state_dict(), path) wrote, or a .safetensors file. Save the "
            f"weights alone, where you trust the file, with the program that it comes from."
        ) from error


def check_kind(path: Path) -> None:
    """ValueError for files that are no weights whatever they are called."""
    with path.open("rb") as file:
        start = file.read(500)
    if not start:
        raise ValueError(f"{path} is empty: its download or copy failed. Fetch it again.")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a pointer of Git LFS in place of the weights: fetch these by `git lfs "
            f"pull` where it was cloned."
        )
    try:  # step by step, as its last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return
    if all(c.isprintable() or c.isspace() for c in text):
        raise ValueError(
            f"{path} is text, no weights; it begins with {' '.join(text.split())[:60]!r}. Is it a "
            f"page in place of a download? Fetch the file itself."
        )


def tensors(found: Any, home: str = "") -> Iterator[tuple[str, str, Tensor]]:
    """All tensors in nested dictionaries: their dictionary, and their keys joined by dots.

    >>> [(home, key) for home, key, _ in tensors({"net": {"w": torch.ones(1)}, "epoch": 3})]
    [('net.', 'net.w')]
    """
    for key, value in found.items() if isinstance(found, Mapping) else ():
        if isinstance(value, Tensor):
            yield home, f"{home}{key}", value
        else:
            yield from tensors(value, f"{home}{key}.")


def fitting(
    network: nn.Module, found: dict[str, Tensor], prefix: str | None
) -> dict[str, tuple[nn.Module, dict[str, str]]]:
    """Copies of the network with each set of weights that fits; and its names for these keys.

    By what stands before the network's names in those keys, with wrappers' names and without; of
    a given ``prefix`` without them only where nothing fits with them.
    """
    fits: dict[str, tuple[nn.Module, dict[str, str]]] = {}
    for plain in (str, unwrapped):
        names = {plain(name): name for name in network.state_dict()}
        keys = {plain(key): key for key in found}
        if len(keys) < len(found):  # two would pass for one
            continue
        for start in starts(names, keys) if prefix is None else [plain(prefix)]:
            under = {k.removeprefix(start): key for k, key in keys.items() if k.startswith(start)}
            model = copied(network)
            weights = {names.get(k, k): found[key] for k, key in under.items()}
            try:
                missing, strange = model.load_state_dict(weights, strict=False)
            except RuntimeError:  # of other shapes
                continue
            if not missing:
                own = {key: names.get(k, k) for k, key in under.items()}
                used = {key: name for key, name in own.items() if name not in strange}
                if not any(used.keys() == known.keys() for _, known in fits.values()):
                    fits[start] = refreshed(model), used
        if fits and (prefix is not None or all(key == unwrapped(key) for key in found)):
            break
    return fits


def unwrapped(name: str) -> str:
    """The name without those of wrappers: DataParallel's and torch.compile's.

    >>> unwrapped("module.body.module.0.weight")
    'body.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def starts(names: Collection[str], keys: Iterable[str]) -> list[str]:
    """What stands before the names in the keys, the commonest first.

    Each for half of the names at least; where none is, the commonest.

    >>> starts(["0.weight", "0.bias"], ["net.0.weight", "net.0.bias", "ema.0.weight", "step"])
    ['net.', 'ema.']
    """
    counts: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in names:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    common = counts.most_common()
    return [start for start, count in common if 2 * count >= len(names) or start == common[0][0]]


def misfit(network: nn.Module, found: dict[str, Tensor], prefix: str | None) -> str:
    """What does not fit, in words."""
    own = network.state_dict()
    start = prefix if prefix is not None else next(iter(starts(own, found)), "")
    theirs = {key.removeprefix(start): v for key, v in found.items() if key.startswith(start)}
    if not theirs:
        return f"none of its names begins with {prefix!r}. It has {few(list(found))}."
    lacking = [name for name in own if name not in theirs]
    other = [
        f"{name} is {list(theirs[name].shape)} and should be {list(value.shape)}"
        for name, value in own.items()
        if name in theirs and theirs[name].shape != value.shape
    ]
    strange = [name for name in theirs if name not in own]
    faults = [few(other)] * bool(other) + [f"it lacks {few(lacking)}"] * bool(lacking)
    faults += [f"it has {few(strange)}, which the network has not"] * bool(strange)
    inner = next(iter(starts(theirs, own)), "")
    if inner and not other:
        return f"{'; '.join(faults)}. Load it into the network called {inner[:-1]!r} in this one."
    return f"{'; '.join(faults)}. Is it of this architecture, with this number of classes?"


def copied(network: nn.Module) -> nn.Module:
    """A copy in eval mode; of weights that a hook computes (pruned ones), too."""
    computed = [v for m in network.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    return deepcopy(network, {id(v): v.detach().clone() for v in computed}).eval()


def refreshed(model: nn.Module) -> nn.Module:
    """The model, in which what hooks compute from its weights is computed anew."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                hook(module, None)
    return model


def in_eight_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of convolutions as whole numbers of 8 bits, a quarter of float32; all else as it is.

    Each output channel has its own ``.scale``: its largest weight over 127.

    >>> small = in_eight_bits({"conv.weight": torch.tensor([127.0, -63.6]).view(1, 2, 1, 1)})
    >>> small["conv.weight"].flatten().tolist(), small["conv.weight.scale"].item()
    ([127, -64], 1.0)
    """
    found = {}
    for name, value in weights.items():
        if value.ndim < 4:
            found[name] = value
            continue
        scale = value.float().abs().amax((1, 2, 3), keepdim=True) / 127
        found[name] = (value / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().char()
        found[f"{name}.scale"] = scale
    return found


def from_eight_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`in_eight_bits` made, as float32 again; other weights as they are.

    >>> weights = {"conv.weight": torch.randn(4, 3, 3, 3), "norm.bias": torch.ones(4)}
    >>> again = from_eight_bits(in_eight_bits(weights))
    >>> bool((again["conv.weight"] - weights["conv.weight"]).abs().max() < 0.02)
    True
    """
    scales = {name for name in weights if name.endswith(".scale")}
    return {
        name: value.float() * weights[f"{name}.scale"] if f"{name}.scale" in scales else value
        for name, value in weights.items()
        if name not in scales
    }
