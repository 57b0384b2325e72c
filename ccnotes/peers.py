"""How fast our attack is, beside those of other libraries."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ccnotes.attacks import PGD, pgd
from ccnotes.benchmark import seconds
from ccnotes.devices import autocast, compile_network, hardware, pick_device, pick_precision
from ccnotes.models import PreActResNet
from ccnotes.records import commit
from ccnotes.tables import tabulated
from ccnotes.types import Images, Labels

Attacker = Callable[[], Images]  # what one call finds
TOLERANCE = 0.015  # of the mean loss's rise; see same_loss


def bench_attacks(
    widths: Sequence[int] = (16, 64),
    *,
    batch_size: int = 128,
    steps: int = 10,
    rounds: int = 3,
    device: str | None = None,
    precision: str = "auto",
    compile: bool = True,
) -> list[dict[str, Any]]:
    """One dictionary for each attacker of PreActResNet-18 at each width: us and other libraries.

    All get one model as our runs have it (eval mode, channels-last, weights that want gradients),
    one batch of made-up 32 x 32 images as float32 tensors, and one task: l-infinity PGD of radius
    8/255 and steps of 2/255 from a random start. Each may do what its documentation does:

    - ``ours``: :func:`ccnotes.attacks.pgd` in float32; ``ours, compiled``, where ``compile`` says
      so, after :func:`ccnotes.devices.compile_network`, which takes ``first_s``; and each again in
      ``precision`` where that is another, "auto" being what this machine gains by;
    - ``torchattacks``: ``PGD``; takes gradients towards the images alone, as we do;
    - ``foolbox``: ``LinfPGD.run``, so without the check for success that its call adds; takes the
      weights' gradients, too;
    - ``art`` (Adversarial Robustness Toolbox): ``ProjectedGradientDescentPyTorch``; takes and gives
      NumPy arrays, and asks for the success before it returns.

    Every round times each in turn; ``ms`` is the median over rounds of an attack's milliseconds,
    ``ratio`` how many times the median of ``ours`` that is, ``ratio_best`` of our fastest, and
    ``first_s`` the seconds of the first call, which is not counted. ``loss`` is the mean
    cross-entropy, in nats, at what the last round found, ``clean_loss`` that at the images. A
    library that is not there has a row with ``skipped``, which says why, and no numbers. Raises
    RuntimeError where the losses differ: see :func:`same_loss`.

    >>> rows = bench_attacks([1], batch_size=8, steps=2, rounds=1, compile=False)
    >>> rows[0]["attacker"], rows[0]["ratio"]
    ('ours', 1.0)
    """
    if rounds < 1 or not widths:
        raise ValueError(
            f"rounds={rounds} must be at least 1, and widths={widths} one or more, such as 16 64."
        )
    if batch_size < 8:
        raise ValueError(f"batch_size={batch_size} must be at least 8, or losses say too little.")
    where = pick_device(device)
    precision = pick_precision(precision, where)
    with seeded(where):
        return [
            row
            for width in widths
            for row in compare(
                width, batch_size, PGD(steps=steps), rounds, where, precision, compile
            )
        ]


def attacks_page(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of :func:`bench_attacks` as Markdown: a table, and what it was measured on.

    >>> facts = {"width": 16, "batch_size": 32, "steps": 10, "hardware": "a machine", "threads": 1}
    >>> facts |= {"torch": "2", "commit": "abc", "version": "1", "skipped": None}
    >>> rows = [facts | {"attacker": "ours", "ms": 1000.0, "ratio_best": 1.0}]
    >>> rows += [facts | {"attacker": "art", "ms": 2500.0, "ratio_best": 2.5}]
    >>> print(attacks_page(rows))
    | PGD-10 by | width 16 |
    |---|---|
    | ours | 1,000 ms (1.0) |
    | art 1 | 2,500 ms (2.5) |
    <BLANKLINE>
    *Milliseconds for 32 images; in brackets, divided by those of our fastest. a machine, ...*
    """
    there = [row for row in rows if not row["skipped"]]
    widths = list(dict.fromkeys(row["width"] for row in there))
    lines: dict[str, list[str]] = {}
    for row in there:
        theirs = f" {row['version']}" * (row["attacker"] in PACKAGES)
        line = lines.setdefault(row["attacker"], [row["attacker"] + theirs])
        line.append(f"{row['ms']:,.0f} ms ({row['ratio_best']:.1f})")
    r = there[0]
    columns = [f"PGD-{r['steps']} by", *(f"width {width}" for width in widths)]
    return (
        f"{tabulated(' | '.join(columns), [*lines.values()])}\n\n*Milliseconds for "
        f"{r['batch_size']} images; in brackets, divided by those of our fastest. {r['hardware']}, "
        f"threads: {r['threads']}, torch {r['torch']}, commit {r['commit']}*"
    )


def compare(
    width: int,
    batch_size: int,
    attack: PGD,
    rounds: int,
    device: torch.device,
    precision: str,
    compile: bool,
) -> list[dict[str, Any]]:
    """The rows of :func:`bench_attacks` for one width."""
    x = torch.randint(256, (batch_size, 3, 32, 32)).float().div(255).to(device)
    y = torch.randint(10, (batch_size,)).to(device)
    model = calibrated(PreActResNet(width=width).to(device), x)
    attackers, skipped = ours(model, x, y, attack, precision, compile), {}
    for name, build in (("torchattacks", torchattacks), ("foolbox", foolbox), ("art", art)):
        try:
            attackers[name] = build(model, x, y, attack)
        except ImportError as error:
            skipped[name] = f"not installed ({error}): pip install 'ccnotes[peers]'"
    first = {name: seconds(attacker, device) for name, attacker in attackers.items()}
    found: dict[str, Images] = {}

    def keep(name: str) -> None:
        found[name] = attackers[name]()

    times = pd.DataFrame(
        {name: seconds(partial(keep, name), device) for name in attackers}
        for _ in tqdm(range(rounds), desc=f"width {width}", unit="round")
    ).median()
    best = times.filter(regex="^ours").min()
    with torch.no_grad():
        losses = {
            name: F.cross_entropy(model(images), y, reduction="none")
            for name, images in {"clean": x, **found}.items()
        }
    clean = losses.pop("clean")
    same_loss(losses, clean)
    facts = {
        "width": width,
        "batch_size": batch_size,
        "steps": attack.steps,
        "rounds": rounds,
        "clean_loss": clean.mean().item(),
        "device": str(device),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": commit(),
    }
    rows = [
        {
            "attacker": name,
            "ms": 1e3 * float(times[name]),
            "ratio": float(times[name] / times["ours"]),
            "ratio_best": float(times[name] / best),
            "loss": losses[name].mean().item(),
            "first_s": first[name],
            "version": version(PACKAGES.get(name, "ccnotes")),
            "skipped": None,
        }
        for name in attackers
    ]
    rows += [{"attacker": name, "skipped": why} for name, why in skipped.items()]
    return [row | facts for row in rows]


def ours(
    model: nn.Module, x: Images, y: Labels, attack: PGD, precision: str, compile: bool
) -> dict[str, Attacker]:
    """Our attack by the name of its row."""

    def attacker(model: nn.Module, precision: str) -> Images:
        with autocast(x.device, precision):
            return pgd(model, x, y, attack)

    models = {"ours": model}
    if compile:
        models["ours, compiled"] = deepcopy(model)
        compile_network(models["ours, compiled"], len(x))
    return {
        name + f", {used}" * (used != "float32"): partial(attacker, network, used)
        for used in dict.fromkeys(("float32", precision))
        for name, network in models.items()
    }


PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}


def torchattacks(model: nn.Module, x: Images, y: Labels, attack: PGD) -> Attacker:
    """The attack of torchattacks. Raises ImportError where that is not installed."""
    library = import_module("torchattacks")
    made = library.PGD(model, eps=attack.eps, alpha=attack.step_size, steps=attack.steps)
    return partial(made, x, y)


def foolbox(model: nn.Module, x: Images, y: Labels, attack: PGD) -> Attacker:
    """The attack of Foolbox. Raises ImportError where that is not installed."""
    library = import_module("foolbox")
    made = library.attacks.LinfPGD(abs_stepsize=attack.step_size, steps=attack.steps)
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return partial(made.run, wrapped, x, library.criteria.Misclassification(y), epsilon=attack.eps)


def art(model: nn.Module, x: Images, y: Labels, attack: PGD) -> Attacker:
    """The attack of ART. Raises ImportError where that is not installed."""
    estimators = import_module("art.estimators.classification")
    evasion = import_module("art.attacks.evasion")
    made = evasion.ProjectedGradientDescentPyTorch(
        estimators.PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=10,
            clip_values=(0, 1),
            device_type=x.device.type.replace("cuda", "gpu"),
        ),
        eps=attack.eps,
        eps_step=attack.step_size,
        max_iter=attack.steps,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    images, labels = x.cpu().numpy(), y.cpu().numpy()
    return lambda: torch.from_numpy(made.generate(images, labels)).to(x.device)


def calibrated(model: nn.Module, x: Images) -> nn.Module:
    """The model as an attack finds it: in eval mode and channels-last, BatchNorm set to ``x``.

    Fresh statistics would let the images vanish on their way, and no attack would do anything.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()(x)
    return model.eval().to(memory_format=torch.channels_last)


def same_loss(losses: dict[str, Tensor], clean: Tensor) -> None:
    """RuntimeError unless all losses, of single images, have risen as far as the first have.

    Their mean may differ by 1.5 % of the rise from ``clean`` and four standard errors of the
    images' differences: each attack starts at random points of its own, and in bfloat16 takes
    other signs. At width 16 and with 128 images five attackers lay within 0.4 %. Another attack
    moves the mean further: a radius of 7/255 or no random start by 6 %, five steps by 20.

    >>> clean = torch.full((100,), 2.0)
    >>> same_loss({"ours": clean + 3, "theirs": clean + 3.04}, clean)
    >>> same_loss({"ours": clean + 3, "theirs": clean + 2.9}, clean)
    Traceback (most recent call last):
    RuntimeError: theirs reaches a mean loss of 4.9 from 2 where ours reaches 5: ...
    """
    first = next(iter(losses))
    rise = (losses[first] - clean).mean()
    for name, loss in losses.items():
        apart = loss - losses[first]
        if not apart.mean().abs() <= TOLERANCE * rise + 4 * apart.std() / len(apart) ** 0.5:
            raise RuntimeError(
                f"{name} reaches a mean loss of {loss.mean():.4g} from {clean.mean():.4g} where "
                f"{first} reaches {losses[first].mean():.4g}: not the same attack, so their times "
                f"cannot be compared. Tell us, with the versions of both libraries, or remove "
                f"{name}."
            )


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """A block whose random numbers, in whichever of three libraries, begin at seed 0.

    After it all are as they were.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
