"""What a run leaves behind, read from its folder."""

import hashlib
import json
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors, load_file
from torch import Tensor

from ccnotes.attribution import group_similarity
from ccnotes.experiments import Experiment, as_tree, rebuilt
from ccnotes.models import Network, network_called
from ccnotes.records.locks import undisturbed
from ccnotes.weights import from_eight_bits

FORMAT = 1  # "schema" in record.json; raise it when keys there start to mean something else
TABLE, ARRAYS = "record.json", "arrays.safetensors"
PACKED = ".xz"  # behind the name of published arrays: a third of them is the same few bytes
# The largest parts of a record, published for some only.
SAMPLE_ATTRIBUTION, PER_IMAGE = "samples.safetensors", "images.safetensors"
VECTORS = "vectors.safetensors"
BEFORE = "before.safetensors"  # the network before a collapse, where there was one
CAMS, SWAPS = "cams.safetensors", "swaps.safetensors"
Which = Literal["best", "last"]
KNOWN: dict[str, Experiment] = {}  # by what records say of them: lists of records ask again
WEIGHTS: dict[Which, str] = {"best": "best.safetensors", "last": "last.safetensors"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run's results, read from its folder.

    >>> import ccnotes
    >>> [record] = ccnotes.runs("planted-at")
    >>> record.title, record.experiment["epochs"], record.finished
    ('planted images, planted-at, seed 0', 100, True)
    >>> record.best["robust_accuracy"] > record.last["robust_accuracy"]
    True
    >>> record.arrays["best_robust_similarity"].shape, record.model("best").head.out_features
    (torch.Size([6, 6]), 6)
    """

    folder: Path
    content: dict[str, Any]  # record.json: configuration, scalars, provenance

    @cached_property
    def configuration(self) -> Experiment:
        """The experiment that was run. Raises ValueError for none that this version can have."""
        told = self.content["experiment"]
        if (key := repr(told)) not in KNOWN:
            KNOWN[key] = rebuilt(told)
        return KNOWN[key]

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The configuration, every field of :class:`~ccnotes.experiments.experiment.Experiment`."""
        return as_tree(self.configuration)

    @property
    def finished(self) -> bool:
        """Whether the last epoch was reached; ``best`` and ``last`` are there only then."""
        return bool(self.content["finished"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Version, commit, date, hardware, torch, precision, threads, seconds."""
        facts: dict[str, Any] = self.content["provenance"]
        return facts

    @property
    def title(self) -> str:
        """The data's title, the experiment's name and the seed, for people."""
        e = self.experiment
        return f"{self.content['dataset']['title']}, {e['name']}, seed {e['seed']}"

    @property
    def best(self) -> dict[str, float]:
        """Scalars on the final test images at the best epoch by validation images (``best_by``)."""
        scalars: dict[str, float] = self.content["best"]
        return scalars

    @property
    def last(self) -> dict[str, float]:
        """Scalars on the final test images after the last epoch."""
        scalars: dict[str, float] = self.content["last"]
        return scalars

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row an evaluation; columns such as ``epoch``, ``lr``, ``test_robust_accuracy``.

        ``running_loss`` is the mean of the objective over the epoch's batches, while the weights
        moved; ``train_robust_loss`` the cross-entropy of some training images after it, in nats.
        For planted images also ``inside`` and ``across``, the mean similarity, on attacked test
        images, of two classes of one true group and of different groups, and, on the images as
        they are, ``clean_inside`` and ``clean_across``. For planted parts also
        ``without_own_robust_accuracy`` and ``without_shared_robust_accuracy``, of test images
        that lack such a part.

        >>> import ccnotes
        >>> table = ccnotes.runs("planted-at")[0].table
        >>> table.epoch.tolist()[:3], bool((table.inside > table.across).all())
        ([5, 10, 15], True)
        """
        table = pd.DataFrame(self.content["evaluations"]).astype({"epoch": int})
        return table.assign(**self.by_group("test"))

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """What is no scalar, but for what has a property of its own, such as ``vectors``.

        ``test_robust_similarity`` and the like have one entry an evaluation in their first
        dimension; ``best_*`` and ``last_*`` are of the final test images (those of radii and
        stages of the ``eval_size`` test images), and ``best_head.weight``
        and ``best_head.bias`` are the head's. What of it is stored to three digits only says
        ``EVALUATION_ARRAYS`` and ``NETWORK_ARRAYS`` of :mod:`ccnotes.records.layout`.
        """
        return self.stored(ARRAYS)

    @cached_property
    def per_image(self) -> dict[str, Tensor]:
        """What judges the choice of final test images, of the best and of the last epoch.

        ``best_robust_correct`` and the like say of each whether it is recognised (0 or 1),
        ``best_robust_cas_draws`` are those of :func:`ccnotes.attribution.cas_draws`. Published
        for some records only; raises ValueError where they were not.
        """
        return self.stored(PER_IMAGE)

    @cached_property
    def sample_attribution(self) -> Tensor:
        """Attribution vectors of the first test image of each class, attacked, in logits.

        Evaluations x classes x features. Published for some records only; raises ValueError
        where it was not.
        """
        return self.stored(SAMPLE_ATTRIBUTION)["test_sample_attribution"]

    @cached_property
    def vectors(self) -> dict[str, Tensor]:
        """What attribution is made of at every evaluation: of it, any two epochs can be swapped.

        ``train_robust_class_means`` and ``test_robust_class_means`` (evaluations x classes x
        features), ``head_weight`` and ``head_bias``. Published for some records only; raises
        ValueError where they were not.
        """
        return self.stored(VECTORS)

    @cached_property
    def swaps(self) -> dict[str, Tensor]:
        """See :class:`ccnotes.swaps.Swapped`: best and last network, their heads swapped.

        ``anew_accuracy`` and ``anew_loss`` are of the best and the last features with a head that
        was trained anew on other images (:func:`ccnotes.swaps.with_head_anew`). Made afterwards, by
        ``python -m ccnotes swaps``; raises ValueError where it was not.
        """
        return self.stored(SWAPS)

    @cached_property
    def cams(self) -> dict[str, Tensor]:
        """By epoch, best and last, Grad-CAM of each final test image, clean, for its own class.

        Images x rows x columns, in [0, 1] (see :func:`ccnotes.attribution.grad_cam`, divided by
        each map's maximum). Made afterwards, by ``python -m ccnotes cams``; raises ValueError
        where they were not.

        >>> import ccnotes
        >>> ccnotes.runs("planted-at")[0].cams["best"].shape
        torch.Size([600, 4, 4])
        """
        return {which: maps.float() / 255 for which, maps in self.stored(CAMS).items()}

    def stored(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of the record's files. Raises ValueError where it is not whole."""

        def read() -> dict[str, Tensor]:
            self.check((name,))
            return load_tensors(content_of(self.path(name)))

        return {
            key: value.float() if value.dtype == torch.half else value
            for key, value in undisturbed(self.folder.resolve().parent, read).items()
        }

    def path(self, name: str) -> Path:
        """Where one of the record's files is: of published arrays a packed one."""
        packed = self.folder / f"{name}{PACKED}"
        return packed if packed.exists() else self.folder / name

    def check(self, names: Iterable[str]) -> None:
        """ValueError unless the record has these files, as they were written."""
        for name in names:
            path = self.path(name)
            if not path.exists():
                made = {CAMS: "cams", SWAPS: "swaps"}.get(name)
                how = f"`python -m ccnotes {made}`" if made else "run it again with fresh=True"
                raise ValueError(f"{self.folder} has no {name}. To make it: {how}.")
            try:
                content = content_of(path)
                if digest := self.content.get("sha256", {}).get(name):
                    whole = hashlib.sha256(content).hexdigest() == digest
                else:  # the first edition kept none
                    whole = bool(load_tensors(content))
            except (OSError, EOFError, lzma.LZMAError, SafetensorError):
                whole = False
            if not whole:
                if read_record(self.folder).content.get("sha256") != self.content.get("sha256"):
                    raise ValueError(
                        f"{self.folder} was written anew after it was read: load the record again."
                    )
                raise ValueError(
                    f"{path} is damaged: it is not what was written. Delete the folder, then run "
                    f"the experiment again."
                )

    @property
    def groups(self) -> Tensor:
        """The true group of each class, of planted images; of photographs nothing."""
        return torch.tensor(self.content["dataset"]["groups"] or [])

    def by_group(self, prefix: str) -> dict[str, Any]:
        """``inside``, ``across`` and so on of the matrices whose names begin with ``prefix``.

        >>> import ccnotes
        >>> sorted(ccnotes.runs("planted-at")[0].by_group("best"))
        ['across', 'clean_across', 'clean_inside', 'inside']
        """
        means: dict[str, Any] = {}
        for kind, start in (("robust", ""), ("clean", "clean_")) if len(self.groups) else ():
            similarity = self.arrays[f"{prefix}_{kind}_similarity"]
            found = group_similarity(similarity, self.groups)
            means |= {
                f"{start}{n}": v.numpy() for n, v in zip(("inside", "across"), found, strict=True)
            }
        return means

    @property
    def watched(self) -> pd.DataFrame:
        """Accuracy on a training batch under PGD-5 after each epoch, of runs that are watched.

        Columns ``epoch`` and ``accuracy``; no rows of others, such as attacks of many steps.
        """
        rows = self.content.get("watched", {})
        return pd.DataFrame(rows, columns=["epoch", "accuracy"]).astype({"epoch": int})

    @property
    def collapsed(self) -> int | None:
        """The first epoch after which that was more than 20 points below its best, if any."""
        return self.content.get("collapsed")

    def model(self, which: Which | Literal["before"] = "best") -> Network:
        """The network of that epoch, in eval mode; ``"before"`` that of the last look before a
        collapse. Raises ValueError where none was published.
        """
        return load_model(self.folder / (BEFORE if which == "before" else WEIGHTS[which]))


def content_of(path: Path) -> bytes:
    """What a file of a record holds, unpacked where it is a packed one.

    >>> _ = Path("a.xz").write_bytes(lzma.compress(b"three"))
    >>> content_of(Path("a.xz"))
    b'three'
    """
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == PACKED else content


def load(folder: Path) -> Record:
    """The record in ``folder``. Raises ValueError where there is none, or none that is whole.

    >>> import ccnotes
    >>> folder = ccnotes.runs("planted-at")[0].folder
    >>> load(folder).title
    'planted images, planted-at, seed 0'
    """
    return undisturbed(folder.resolve().parent, lambda: read_record(folder))


def read_record(folder: Path) -> Record:
    """:func:`load` without waiting for those who publish.

    >>> import ccnotes
    >>> read_record(ccnotes.runs("planted-at")[0].folder).finished
    True
    """
    table = folder / TABLE
    if not table.is_file():  # a pipe would be waited for
        raise ValueError(
            f"{folder} has no {TABLE}, which says what the files beside it are: copy it there, "
            f"from the folder of the run."
        )
    try:
        content = json.loads(table.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{table} cannot be read as a record ({type(error).__name__}). "
            f"Delete the folder, or move it away."
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != FORMAT:
        raise ValueError(f"{table} has schema {schema!r}; this version reads {FORMAT}.")
    record = Record(folder=folder, content=content)
    try:
        check_content(content)
        _ = record.configuration
    except ValueError as error:
        raise ValueError(
            f"{table} is no whole record: {error}. Delete the folder, or move it away."
        ) from error
    return record


def check_content(content: Mapping[str, Any]) -> None:
    """ValueError unless a record's table has what every record has."""
    kinds = {"fingerprint": str, "finished": bool, "experiment": dict, "dataset": dict}
    kinds |= {"provenance": dict, "evaluations": dict}
    if content.get("finished"):
        kinds |= {"best": dict, "last": dict}
    for name, kind in kinds.items():
        if not isinstance(value := content.get(name), kind):
            raise ValueError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    for name in ("title", "identity", "classes", "groups"):
        if name not in content["dataset"]:
            raise ValueError(f"its dataset has no {name}")
    for name in ("date", "hardware", "device", "precision"):
        if not isinstance(content["provenance"].get(name), str):
            raise ValueError(f"its provenance has no {name}")
    if not isinstance(content["provenance"].get("seconds"), int | float):
        raise ValueError("its provenance has no seconds")
    groups = content["dataset"]["groups"]
    if not (groups is None or (groups and all(isinstance(group, int) for group in groups))):
        raise ValueError("its dataset's groups are no whole numbers")
    columns = content["evaluations"].values()
    if not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) > 1:
        raise ValueError("its evaluations are no columns of one length")
    if columns and not {"epoch", "lr", "test_robust_accuracy"} <= content["evaluations"].keys():
        raise ValueError("its evaluations lack a column")
    for which in ("best", "last") if content["finished"] else ():
        if not isinstance(content[which].get("epoch"), int):
            raise ValueError(f"its {which} network has no epoch")
    digests = content.get("sha256", {})
    if not (isinstance(digests, dict) and all(isinstance(d, str) for d in digests.values())):
        raise ValueError("its sha256 are no digests by file")


def load_model(path: Path | str) -> Network:
    """The network saved in a record's ``best.safetensors`` or ``last.safetensors``.

    Or in a file of the repository's folder ``checkpoints``, whose weights have 8 bits.

    In eval mode, on the CPU. Raises ValueError for a file that no run of ccnotes wrote.

    >>> import ccnotes
    >>> folder = ccnotes.runs("planted-at")[0].folder
    >>> load_model(folder / "best.safetensors").head.out_features
    6
    """
    file = Path(path)
    return undisturbed(file.parent.resolve().parent, lambda: read_model(file))


def read_model(path: Path) -> Network:
    """:func:`load_model` without waiting for those who publish.

    >>> import ccnotes
    >>> read_model(ccnotes.runs("planted-at")[0].folder / "best.safetensors").training
    False
    """
    if path.with_name(TABLE).is_file():  # which has the digest of what was written
        read_record(path.parent).check((path.name,))
    try:
        with safe_open(path, "pt") as file:
            shape = file.metadata() or {}
        weights = from_eight_bits(load_file(path))
        size = int(shape.get("image_size", 32))
        classes, width = len(weights["head.bias"]), int(shape["width"])
        channels = len(weights["body.0.mean"])
        model = network_called(
            shape["model"],
            classes,
            width,
            image_size=size,
            mean=[0.5] * channels,
            std=[0.25] * channels,
        )
        model.load_state_dict(weights)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a model that ccnotes saved ({error}). "
            f"Such files are called best.safetensors and last.safetensors, in a run's folder."
        ) from error
    return model.eval()
