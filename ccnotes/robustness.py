"""Robust accuracy that can be trusted: PGD beside AutoAttack, image by image."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from ccnotes.attacks import PGD, lengths, pgd
from ccnotes.checks import (
    check_bytes,
    check_finite,
    check_trackable,
    checked_labels,
    logits_of,
    warn,
    whole,
)
from ccnotes.data import to_float
from ccnotes.evaluation import FEW, fitting
from ccnotes.files import replace_file
from ccnotes.models import check_repeats
from ccnotes.types import Images, Labels, Logits, Pixels
from ccnotes.weights import copied

TOGETHER = 100  # images at most; an attack that is stopped has lost the work on these
LONG = 5  # times as many steps of PGD: where they find much more, neither number is robust accuracy
MUCH = 0.05  # share of the images that tells so,
ALONE = 3  # where it is more images than these, which may fall by chance
QUERIES = 5000  # of Square for each image, as in AutoAttack's standard
SLACK = 1e-5  # by which rounding may take an image out of the ball
NAMES = {"apgd-ce": "APGD-CE", "apgd-dlr": "APGD-DLR", "apgd-t": "APGD-T", "fab": "FAB"}
NAMES |= {"fab-t": "FAB-T", "square": "Square"}


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Which images a network still recognises, as they are and after each attack.

    >>> recognised = torch.tensor([[True, True], [True, False]])
    >>> found = Robustness(
    ...     attacks=("clean", "Square"), recognised=recognised, labels=torch.tensor([0, 1]), stuck=0
    ... )
    >>> found.accuracy, found.table(("cat", "dog")).loc["Square"].to_dict()
    (0.5, {'all': 0.5, 'cat': 1.0, 'dog': 0.0})
    """

    attacks: tuple[str, ...]  # "clean", two of PGD, then AutoAttack's, in its order
    recognised: Bool[Tensor, "attacks batch"]  # AutoAttack's: after it and those of its before it
    labels: Labels
    stuck: float  # share of the images that have no gradient, so that PGD cannot move them

    @property
    def accuracy(self) -> float:
        """Robust accuracy, in [0, 1]: the share of the images that no attack has changed."""
        return self.recognised.all(0).float().mean().item()

    @property
    def autoattack(self) -> float:
        """That of AutoAttack alone, as other people report it."""
        return self.recognised[-1].float().mean().item()

    def table(self, classes: tuple[str, ...] | None = None) -> pd.DataFrame:
        """Accuracy in [0, 1]: a row for each attack, a column for all images and for each class."""
        numbers = self.labels.unique().tolist()
        columns = {"all": self.recognised.float().mean(1)}
        for number in numbers:
            mine = self.labels == number
            name = classes[number] if classes else str(number)
            columns[name] = self.recognised[:, mine].float().mean(1)
        return pd.DataFrame({name: v.tolist() for name, v in columns.items()}, [*self.attacks])


class Plain(nn.Module):
    """The network as attacks of others want it: images in [0, 1] to float32 logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copied(model).requires_grad_(False)

    def forward(self, x: Images) -> Logits:
        floats = (w.dtype for w in self.model.parameters() if w.is_floating_point())
        return logits_of(self.model(x.to(next(floats, x.dtype)))).float()


def robustness(
    model: nn.Module,
    images: Pixels,
    labels: Labels,
    attack: PGD,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    keep: Path | None = None,
) -> Robustness:
    """What PGD and AutoAttack leave of a network's accuracy, in float32.

    ``attack`` gives ball and step: it runs as it is, then, on what is left, with five times the
    steps; and, on all images that are recognised, AutoAttack's four attacks one after another
    (Croce and Hein, 2020, arXiv:2003.01690; by pyautoattack, of the extra ``autoattack``). Of fewer
    than ten classes all others are targets; of three the untargeted DLR loss and of two none takes
    the place of the targeted one, which needs four. What an attack returns outside the ball or
    [0, 1] does not count.

    ``images`` are uint8, and ``model`` takes raw pixels in [0, 1]. In the folder ``keep`` every
    finished batch is kept, so that the same call goes on where one was stopped; ``batch_size`` is
    100 or what memory allows. Warns where gradients vanish, where more steps find much more, and
    where an attack without gradients does: then the network hides its gradients, and no number
    here may be trusted. Raises ModuleNotFoundError without pyautoattack, and ValueError for input
    as :func:`ccnotes.evaluation.features_of` does.
    """
    check_bytes(images, labels)
    check_trackable(model)
    rows, columns = images.shape[2:]
    if attack.norm == "l2" and min(rows, columns) < 5:
        raise ValueError(
            f"images of {rows} x {columns} pixels are too small for Square in the l2 norm, which "
            f"needs a side of 5: attack larger images, or in the linf norm."
        )
    with torch.inference_mode(False):
        network = Plain(model).to(images.device)
        if batch_size is None:
            batch_size = min(TOGETHER, fitting(images, network))
        size = whole("batch_size", batch_size, 1)
        with torch.no_grad():
            first = to_float(images[:size])
            check_repeats(model, first, network)
            classes = network(first).shape[1]
        labels = checked_labels(labels, classes)
        attackers = autoattackers(classes)
        file = (
            keep and keep / f"attack-{question(network, images, labels, attack, seed, size)}.json"
        )
        done = read(file)
        bar = tqdm(total=len(images), desc="attacking", unit="image")
        with bar, quiet():
            for start in range(0, len(images), size):
                if len(done) * size <= start:
                    x, y = to_float(images[start : start + size]), labels[start : start + size]
                    done.append(attacked(network, x, y, attack, seed + start, attackers, bar))
                    write(file, done)
                bar.update(len(images[start : start + size]))
    recognised = torch.cat([torch.tensor(rows).bool() for rows, _ in done], 1)
    steps = (f"PGD-{attack.steps}", f"PGD-{LONG * attack.steps}")
    found = Robustness(
        attacks=("clean", *steps, *(NAMES[name] for name in attackers)),
        recognised=recognised,
        labels=labels.cpu(),
        stuck=sum(stuck for _, stuck in done) / len(images),
    )
    doubt(found)
    return found


def attacked(
    network: Plain,
    x: Images,
    y: Labels,
    attack: PGD,
    seed: int,
    attackers: list[str],
    bar: Any,
) -> tuple[list[list[int]], int]:
    """Which images of a batch are recognised, a row for each attack; how many have no gradient."""
    right = correct(network, x, y)
    rows, stuck = [right], [torch.zeros(0, dtype=torch.bool)]
    for steps in (attack.steps, LONG * attack.steps):
        bar.set_postfix_str(f"PGD-{steps}")
        generator = torch.Generator(x.device).manual_seed(seed)
        if (left := rows[-1].nonzero()[:, 0]).numel():
            longer = replace(attack, steps=steps)
            adv = pgd(network, x[left], y[left], longer, generator, stuck=stuck)
            rows.append(outcome(network, x, adv, y, attack, rows[-1], left))
        else:
            rows.append(rows[-1])
    still = right
    for name in attackers:
        bar.set_postfix_str(NAMES[name])
        if (left := still.nonzero()[:, 0]).numel():
            adv = by_autoattack(network, x[left], y[left], attack, seed, name)
            still = outcome(network, x, adv, y, attack, still, left)
        rows.append(still)
    return [row.int().tolist() for row in rows], int(stuck[1].sum()) if len(stuck) > 1 else 0


def outcome(
    network: Plain,
    x: Images,
    adv: Float[Tensor, "left channels height width"],
    y: Labels,
    attack: PGD,
    before: Bool[Tensor, " batch"],
    left: Int[Tensor, " left"],
) -> Bool[Tensor, " batch"]:
    """Which images are recognised after the attack on those ``left``: in the ball, that is."""
    after = before.clone()
    after[left] = correct(network, adv, y[left]) | ~inside(x[left], adv, attack)
    return after


@torch.no_grad()
def correct(network: Plain, x: Images, y: Labels) -> Bool[Tensor, " batch"]:
    """Which images the network recognises. Raises ValueError for logits that are NaN."""
    logits = network(x)
    check_finite(logits, network.model)
    right: Tensor = logits.argmax(1) == y
    return right


def inside(x: Images, adv: Images, attack: PGD) -> Bool[Tensor, " batch"]:
    """Which of the attacked images lie in the ball and in [0, 1], but for rounding.

    >>> x = torch.full((2, 1, 1, 2), 0.5)
    >>> inside(x, x + torch.tensor([0.1, 0.2]).view(2, 1, 1, 1), PGD(eps=0.1)).tolist()
    [True, False]
    """
    delta = (adv - x).flatten(1)
    far = delta.abs().amax(1) if attack.norm == "linf" else lengths(adv - x).flatten()
    low, high = adv.flatten(1).aminmax(dim=1)
    return (far <= attack.eps + SLACK) & (low >= -SLACK) & (high <= 1 + SLACK)


def autoattackers(classes: int) -> list[str]:
    """AutoAttack's attacks for a network of so many classes.

    >>> autoattackers(10), autoattackers(2)
    (['apgd-ce', 'apgd-t', 'fab-t', 'square'], ['apgd-ce', 'fab', 'square'])
    """
    if classes > 3:
        return ["apgd-ce", "apgd-t", "fab-t", "square"]
    return ["apgd-ce", *(["apgd-dlr"] if classes == 3 else []), "fab", "square"]


def by_autoattack(
    network: Plain, x: Images, y: Labels, attack: PGD, seed: int, name: str
) -> Images:
    """What one of AutoAttack's attacks makes of the images, with the settings of its standard."""
    try:
        from pyautoattack import AutoAttack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "AutoAttack comes with pyautoattack, which is not installed: pip install "
            "'ccnotes[autoattack]', or pip install pyautoattack."
        ) from error
    norm = {"linf": "Linf", "l2": "L2"}[attack.norm]
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        made = AutoAttack(
            network, norm=norm, eps=attack.eps, seed=seed, version="standard", device=x.device
        )
        made.attacks_to_run = [name]
        made.square.n_queries = QUERIES
        targets = min(9, network(x[:1]).shape[1] - 1)
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = targets
        found: Images = made.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return found.detach()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's own lines on single batches; :func:`doubt` speaks of all images."""
    logger = logging.getLogger("auto-attack")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def doubt(found: Robustness) -> None:
    """Warn where the numbers show that attacks by gradients cannot be trusted here."""
    share = found.recognised.float().mean(1).tolist()
    chance, why = ALONE / len(found.labels), []
    if found.stuck > FEW:
        why.append(f"{found.stuck:.1%} of the images have a gradient of exactly zero, or NaN")
    if share[1] - share[2] > max(MUCH, chance):
        why.append(
            f"{found.attacks[2]} leaves {share[2]:.1%} where {found.attacks[1]} leaves "
            f"{share[1]:.1%}, so that still more steps may find more"
        )
    if share[-2] - share[-1] > max(FEW, chance):
        why.append(
            f"Square, which needs no gradient, takes another {share[-2] - share[-1]:.1%} of the "
            f"images after attacks by gradients"
        )
    if found.autoattack - found.accuracy > max(MUCH, chance):
        why.append(
            f"PGD changes {found.autoattack - found.accuracy:.1%} of the images that AutoAttack "
            f"does not"
        )
    if why:
        warn(
            f"do not trust this robust accuracy of {found.accuracy:.1%}: {'; '.join(why)}. The "
            f"network seems to hide its gradients: leave rounding and saturated or random layers "
            f"out of it, or attack what is differentiable in their place (arXiv:1802.00420)."
        )


def question(
    network: Plain, images: Pixels, labels: Labels, attack: PGD, seed: int, size: int
) -> str:
    """A name for what is asked, so that only the same question finds its batches again."""
    digest = hashlib.sha256(json.dumps([vars(attack), seed, size, repr(network)]).encode())
    for value in (*network.state_dict().values(), images, labels):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read(file: Path | None) -> list[tuple[list[list[int]], int]]:
    """The batches that are finished; none where there is no file, or it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        if file is not None:
            return [(rows, int(stuck)) for rows, stuck in json.loads(file.read_text())]
    return []


def write(file: Path | None, done: list[tuple[list[list[int]], int]]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(done).encode())
