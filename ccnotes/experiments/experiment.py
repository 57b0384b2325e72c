"""One training run as a frozen configuration, and the data that it trains on."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ccnotes.attacks import PGD
from ccnotes.checks import check_choice, real, truth, whole
from ccnotes.data import Dataset, Split, load_photos
from ccnotes.networks import check_name
from ccnotes.objectives import OWN_AVERAGE, Objective
from ccnotes.parts import Kind, PartImages, Parts, parts
from ccnotes.planted import Planted, PlantedImages, planted
from ccnotes.virtual import Virtual

# Identities of images that are drawn: their recipes; raise the number with the recipe.
PLANTED = "planted-1"
PARTS = "parts-1"
Mode = Literal["eval", "train"]
Averaging = Literal["swa", "ema"]
Criterion = Literal["accuracy", "loss"]
OnCollapse = Literal["go on", "stop"]
Precision = Literal["auto", "float32", "bfloat16"]
Head = Literal["learned", "frozen", "simplex", "groups"]
COUNTS = {  # whole numbers, and the least that each can be
    **dict.fromkeys(("train_size", "test_size", "width", "epochs", "batch_size"), 1),
    **dict.fromkeys(("eval_steps", "eval_every", "validate_every", "eval_size"), 1),
    **dict.fromkeys(("final_size", "image_size", "replays"), 1),
    **dict.fromkeys(("validation_size", "unlabelled_size", "cutout", "seed"), 0),
}
OPTIONAL = ("train_size", "validate_every", "final_size", "image_size", "eval_eps")
NUMBERS = (
    *("lr", "lr_factor", "momentum", "weight_decay", "swa_start", "ema_decay", "eval_eps"),
    "head_norm",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")  # what every file system takes for a folder


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: data, model, attack, schedule, evaluation, seed.

    Raises ValueError for a setting that no run can have; whatever can be checked without the
    data is checked here, before the first batch.

    >>> Experiment(epochs=8, lr_drops=(0.5,), seed=3).seed
    3
    """

    name: str = "custom"
    data: str = "planted"  # planted, parts, a name of ccnotes.data.KNOWN or imagefolder:PATH
    image_size: int | None = None  # resize the images of a folder to this many pixels
    planted: Planted = field(default_factory=Planted)
    parts: Parts = field(default_factory=Parts)
    train_size: int | None = 200  # images to train on; None: all that there are
    validation_size: int = 300  # images to choose the best epoch on
    test_size: int = 600  # test images to draw; of photos, all that there are
    unlabelled_size: int = 0  # more images, whose labels training does not see: for ``virtual``
    model: str = "convnet"  # a name of ccnotes.networks.NETWORKS, vit-ti, deit-ti or timm:NAME
    width: int = 32  # channels of the first layers; of what comes from timm that of a token
    head: Head = "learned"  # frozen from the first drop of lr on, or fixed by hand from the start
    head_norm: float = 2.3  # of the rows of a head that is fixed by hand
    epochs: int = 100
    batch_size: int = 50
    lr: float = 0.1
    lr_drops: tuple[float, ...] = (0.5, 0.75)  # fractions of the epochs at which lr drops
    lr_factor: float = 0.1  # what a drop multiplies lr by
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = False  # random crop and flip
    cutout: int = 0  # side of a square hidden in each training image, in pixels
    objective: Objective = field(default_factory=Objective)
    attack: PGD = field(default_factory=PGD)  # of training; eps=0 is standard training
    batchnorm: Mode = "eval"  # its mode under the training attack
    replays: int = 1  # times that each batch is learned from, its attack going on: Free AT
    virtual: Virtual = field(default_factory=Virtual)  # a term on images without labels
    on_collapse: OnCollapse = "go on"  # where training accuracy falls to nothing under PGD
    average: Averaging | None = None  # of the weights; it is what is evaluated
    swa_start: float = 0.5  # fraction of the epochs before the first that SWA averages
    ema_decay: float = 0.9  # of a weight's share in the EMA, per epoch
    eval_eps: float | None = None  # radius of the attack that evaluates; None: the training's
    eval_steps: int = 20  # of the attack that evaluates, of step eps / 4 (l2: eps / 8)
    eval_every: int = 1  # epochs between evaluations
    validate_every: int | None = None  # epochs between candidates for the best; None: eval_every
    best_by: Criterion = "accuracy"  # robust, on the validation images; what the best epoch has
    eval_size: int = 1000  # images of each split used between epochs
    final_size: int | None = None  # test images for the best and the last epoch; None: all
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            raise ValueError(
                f"name={self.name!r} names the run's folder, so it must be 1 to 100 of the "
                f"characters A-Z a-z 0-9 . _ + = - and begin with a letter or a digit."
            )
        for name, known in (
            ("head", Head),
            ("batchnorm", Mode),
            ("best_by", Criterion),
            ("on_collapse", OnCollapse),
            ("precision", Precision),
        ):
            check_choice(name, getattr(self, name), get_args(known))
        check_name(self.model)
        object.__setattr__(self, "lr_drops", tuple(self.lr_drops))
        if self.average is not None:
            check_choice("average", self.average, get_args(Averaging))
        for name in (*COUNTS, *NUMBERS):
            if (value := getattr(self, name)) is not None or name not in OPTIONAL:
                low = COUNTS.get(name)
                found = real(name, value) if low is None else whole(name, value, low)
                object.__setattr__(self, name, found)  # NumPy's numbers as Python's
        object.__setattr__(self, "augment", truth("augment", self.augment))
        if self.model.startswith("timm:") and self.width != Experiment.width:
            raise ValueError(
                f"width={self.width} changes nothing of model={self.model!r}: leave it out, or "
                f"say it as timm does, as in 'timm:vit_tiny_patch16_224,embed_dim=96'."
            )
        if self.drawn is not None:
            self.check_drawn_sizes(self.drawn)
        if not all(0 < drop < 1 for drop in self.lr_drops):
            raise ValueError(
                f"lr_drops={self.lr_drops} are fractions of the epochs, between 0 and 1: "
                f"0.5 drops the learning rate halfway."
            )
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"lr={self.lr} must be above 0 and weight_decay={self.weight_decay} at least 0, "
                f"both finite."
            )
        if not 0 < self.lr_factor <= 1:
            raise ValueError(
                f"lr_factor={self.lr_factor:g} is what a drop multiplies lr by: above 0, at most 1."
            )
        if not 0 < self.head_norm < math.inf:
            raise ValueError(f"head_norm={self.head_norm:g} must be above 0 and finite.")
        if self.head == "frozen" and not self.drop_epochs:
            raise ValueError("head='frozen' freezes at the first drop: give lr_drops one.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1).")
        if not (0 <= self.swa_start < 1 and 0 < self.ema_decay < 1):
            raise ValueError(
                f"swa_start={self.swa_start} and ema_decay={self.ema_decay} must lie between 0 "
                f"and 1."
            )
        if self.average == "swa" and OWN_AVERAGE in self.objective.teachers:
            raise ValueError(
                f"average='swa' begins too late for the teacher {OWN_AVERAGE!r}: use 'ema'."
            )
        if self.attack.eps > 0 and self.attack.step_size == 0:
            raise ValueError(
                f"attack.step_size=0 never leaves its start though attack.eps="
                f"{self.attack.eps:g}: give a step such as eps / 4, or eps=0 for standard training."
            )
        self.check_terms()
        _ = self.eval_attack  # for the error of a radius that is none

    def check_terms(self) -> None:
        """ValueError for a term of the loss, or an attack, that would do nothing it says."""
        o, attack = self.objective, self.attack
        for name in ("grad_align", "elle"):
            if (weight := getattr(o, name)) and not attack.eps:
                raise ValueError(
                    f"objective.{name}={weight:g} is about the attack's ball, and attack.eps=0: "
                    f"give a radius, or leave it out."
                )
        if o.loss == "trades" and attack.start != 1:
            raise ValueError(
                f"attack.start={attack.start:g} does not count for TRADES, whose attack starts "
                f"from normal noise of its own: leave it out."
            )
        free = PGD(eps=attack.eps, step_size=attack.step_size, steps=1, random_start=False)
        if self.replays > 1 and (
            replace(attack, norm=free.norm) != free
            or not attack.eps
            or (o.loss, o.awp, self.average) != ("cross-entropy", 0, None)
        ):
            raise ValueError(
                f"replays={self.replays} is Free AT, whose attack goes on by one step with each "
                f"replay: give attack.steps=1, attack.random_start=False, a radius, no other "
                f"setting of the attack, and neither another loss, awp nor average."
            )
        if o.group_weight and self.data != "parts":
            raise ValueError(
                f"objective.group_weight={o.group_weight:g} is about images that lack a kind of "
                f"part, and data={self.data!r} have no parts: take data='parts', or leave it at 0."
            )
        if self.unlabelled_size and not self.virtual.used:
            raise ValueError(
                f"unlabelled_size={self.unlabelled_size} images would not be used: give "
                f"virtual.kind='vat', say, or virtual.entropy, or leave it at 0."
            )

    @property
    def watched(self) -> bool:
        """Whether training looks after each epoch whether it has collapsed.

        Attacks of one or two steps are those that may bring it about.

        >>> Experiment(attack=PGD(steps=1)).watched, Experiment(attack=PGD(steps=10)).watched
        (True, False)
        """
        return self.attack.eps > 0 and (self.attack.steps <= 2 or self.on_collapse == "stop")

    @property
    def eval_attack(self) -> PGD:
        """The attack that evaluates: the training's norm, ``eval_eps``, ``eval_steps``.

        Plain PGD from a random start, projected, however training attacks.

        >>> Experiment(eval_eps=0.2).eval_attack.step_size
        0.05
        """
        eps = self.attack.eps if self.eval_eps is None else self.eval_eps
        norm = self.attack.norm
        step_size = eps / (4 if norm == "linf" else 8)
        return PGD(norm=norm, eps=eps, steps=self.eval_steps, step_size=step_size)

    @property
    def drop_epochs(self) -> list[int]:
        """The epochs after which the learning rate drops.

        >>> Experiment(epochs=60, lr_drops=(1 / 3, 3 / 4)).drop_epochs
        [20, 45]
        """
        return [round(drop * self.epochs) for drop in self.lr_drops]

    def head_moves(self, epoch: int) -> bool:
        """Whether the head learns in that epoch, the first being 1.

        >>> e = Experiment(epochs=4, lr_drops=(0.5,), head="frozen")
        >>> [e.head_moves(epoch) for epoch in (1, 2, 3, 4)]
        [True, True, False, False]
        """
        return self.head == "learned" or (self.head == "frozen" and epoch <= self.drop_epochs[0])

    @property
    def drawn(self) -> Planted | Parts | None:
        """What the images are drawn by; None of photographs."""
        settings: dict[str, Planted | Parts] = {"planted": self.planted, "parts": self.parts}
        return settings.get(self.data)

    def check_drawn_sizes(self, settings: Planted | Parts) -> None:
        """ValueError unless every part of images that are drawn has some of every class."""
        if self.image_size is not None:
            raise ValueError(
                f"image_size={self.image_size} resizes the images of a folder. The side of planted "
                f"images is {self.data}.image_size={settings.image_size}."
            )
        names = ["train_size", "validation_size", "test_size", "eval_size", "final_size"]
        for name in (*names, *["unlabelled_size"] * bool(self.unlabelled_size)):
            size, classes = getattr(self, name), settings.num_classes
            if size is None and name == "train_size":
                raise ValueError("train_size=None means all images, but planted ones have no end.")
            if size is not None and size < classes:
                raise ValueError(
                    f"{name}={size} must be at least {self.data}.num_classes={classes}, so that "
                    f"every class has an image."
                )


def dataset(experiment: Experiment, data_dir: Path | str | None = None) -> Dataset:
    """The data that the experiment trains, validates and tests on, at its seed.

    Planted images are drawn, those of parts also without own and without shared parts to test on;
    of photographs see :func:`~ccnotes.data.photos.load_photos`, of its errors, too.

    >>> data = dataset(Experiment(data="parts", train_size=12, validation_size=18))
    >>> len(data.train), len(data.validation), len(data.test), data.groups
    (12, 18, 600, (0, 0, 1, 1, 2, 2))
    >>> {kind: len(split) for kind, split in data.without.items()}
    {'own': 600, 'shared': 600}
    """
    e = experiment
    if e.data == "planted":
        return planted_dataset(e)
    if e.data == "parts":
        return parts_dataset(e)
    return load_photos(
        e.data,
        data_dir=data_dir,
        image_size=e.image_size,
        train_size=e.train_size,
        validation_size=e.validation_size,
        unlabelled_size=e.unlabelled_size,
        seed=e.seed,
    )


def planted_dataset(e: Experiment) -> Dataset:
    """Images with planted patterns, as ``e`` wants them."""
    assert e.train_size is not None  # an Experiment on images that are drawn cannot be without
    test = planted(e.test_size, e.planted, seed=e.seed, split="test")
    unlabelled = None
    if e.unlabelled_size:
        drawn = planted(e.unlabelled_size, e.planted, seed=e.seed, split="unlabelled")
        unlabelled = split_of(drawn)
    return Dataset(
        name="planted",
        title="planted images",
        classes=tuple(f"class {i}" for i in range(e.planted.num_classes)),
        groups=tuple(test.groups.tolist()),
        identity=PLANTED,
        train=split_of(planted(e.train_size, e.planted, seed=e.seed, split="train")),
        validation=split_of(planted(e.validation_size, e.planted, seed=e.seed, split="validation")),
        test=split_of(test),
        unlabelled=unlabelled,
    )


def parts_dataset(e: Experiment) -> Dataset:
    """Images of parts, as ``e`` wants them; the training labels with their noise."""
    assert e.train_size is not None  # an Experiment on images that are drawn cannot be without
    test = parts(e.test_size, e.parts, seed=e.seed, split="test")
    unlabelled = None
    if e.unlabelled_size:
        drawn = parts(e.unlabelled_size, e.parts, seed=e.seed, split="unlabelled")
        unlabelled = split_of(drawn)
    lacking = None
    if e.objective.group_weight:
        drawn = parts(e.train_size, e.parts, seed=e.seed, without=e.objective.lacking)
        lacking = Split(images=drawn.images, labels=drawn.groups[drawn.true_labels])
    without: tuple[Kind, ...] = ("own", "shared")
    return Dataset(
        name="parts",
        title="planted parts",
        classes=test.classes,
        groups=tuple(test.groups.tolist()),
        identity=PARTS,
        train=split_of(parts(e.train_size, e.parts, seed=e.seed, split="train")),
        validation=split_of(parts(e.validation_size, e.parts, seed=e.seed, split="validation")),
        test=split_of(test),
        unlabelled=unlabelled,
        lacking=lacking,
        without={
            kind: split_of(parts(e.test_size, e.parts, seed=e.seed, split="test", without=kind))
            for kind in without
        },
    )


def split_of(drawn: PlantedImages | PartImages) -> Split:
    return Split(images=drawn.images, labels=drawn.labels)
