"""What is made of a run's networks afterwards: Grad-CAM, their heads swapped, small files."""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from ccnotes.attribution import grad_cam, on_grid
from ccnotes.data import Dataset, to_float
from ccnotes.evaluation import features_of, fitting, measure
from ccnotes.experiments import dataset
from ccnotes.files import save_tensors, writing
from ccnotes.monitor import final_part, part
from ccnotes.networks import FromTimm, Network
from ccnotes.records.layout import MAKE_ROOM
from ccnotes.records.record import CAMS, SWAPS, WEIGHTS, Record
from ccnotes.swaps import swapped, with_head_anew
from ccnotes.types import Images, Labels
from ccnotes.weights import in_eight_bits


def dataset_of(record: Record, data: str | None, data_dir: Path | str | None) -> Dataset:
    """A run's data, with no less images to validate on than to train on, where they are drawn.

    Raises ValueError for other data.
    """
    e = record.configuration
    size = e.validation_size if e.drawn is None else max(e.validation_size, e.train_size or 0)
    source = dataset(replace(e, data=data or e.data, validation_size=size), data_dir)
    if source.identity != record.content["dataset"]["identity"]:
        raise ValueError(
            f"{source.title} are not the data of {record.title}: give the run's own by --data."
        )
    return source


def write_cams(
    record: Record, data_dir: Path | str | None = None, *, data: str | None = None
) -> Path:
    """Make ``Record.cams`` from the networks that the record's folder has, and the run's data.

    ``data`` says where these are if they came from a folder of images, whose path no record
    keeps. Returns the file. Raises ValueError where the folder has no networks, and for data that
    are not the run's.

    >>> from ccnotes.experiments import Experiment
    >>> from ccnotes.records import run
    >>> e = Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1)
    >>> record = run(e)
    >>> write_cams(record).name, record.cams["best"].shape
    ('cams.safetensors', torch.Size([6, 4, 4]))
    """
    test = final_part(dataset_of(record, data, data_dir).test, record.configuration)
    found: dict[str, Tensor] = {}
    for which in WEIGHTS:
        model = record.model(which)
        together = fitting(test.images, model)
        maps = torch.cat(
            [
                looked_at(model, to_float(images), labels)
                for images, labels in zip(
                    test.images.split(together), test.labels.split(together), strict=True
                )
            ]
        )
        top = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        found[which] = (255 * maps / top).round().byte()
    with writing(record.folder, MAKE_ROOM):
        save_tensors(found, record.folder / CAMS)
    return record.folder / CAMS


def looked_at(model: Network, images: Images, labels: Labels) -> Float[Tensor, "batch r c"]:
    """Grad-CAM of the last layer that has places, of transformers' tokens as a map."""
    layer, channels = model.places
    maps = grad_cam(model, layer, images, labels, channels=channels)
    if isinstance(model, FromTimm) and model.is_transformer:
        prefix, rows, columns = model.tokens
        maps = on_grid(maps, rows, columns, prefix=prefix)
    return maps


def write_swaps(
    record: Record,
    data_dir: Path | str | None = None,
    *,
    data: str | None = None,
    images: int = 2000,
) -> Path:
    """Make ``Record.swaps`` from the networks that the record's folder has, and the run's data.

    Of at most so many of the final test ``images``, as many of each class as of any other. Heads
    are trained anew on the validation images, of images that are drawn on as many as the run had to
    train on. For ``data``, what is returned and errors see :func:`write_cams`.

    >>> from ccnotes.experiments import Experiment
    >>> from ccnotes.records import run
    >>> e = Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1)
    >>> record = run(e)
    >>> write_swaps(record).name, record.swaps["accuracy"].shape
    ('swaps.safetensors', torch.Size([2, 2]))
    """
    if images < (classes := len(record.content["dataset"]["classes"])):
        raise ValueError(f"images={images} must be at least {classes}, one of each class.")
    e, source = record.configuration, dataset_of(record, data, data_dir)
    test, precision = part(final_part(source.test, e), images), record.provenance["precision"]
    best, last = record.model("best"), record.model("last")
    found = swapped(best, last, test, e.eval_attack, seed=e.seed, precision=precision)._asdict()
    anew = []
    for network in (best, last):
        model = with_head_anew(network, source.validation, e, precision)
        features = features_of(
            model, test.images, test.labels, e.eval_attack, seed=e.seed, precision=precision
        )
        anew.append(measure(features, test.labels, model.head))
    found["anew_accuracy"] = torch.stack([measures.accuracy for measures in anew])
    found["anew_loss"] = torch.stack([measures.loss for measures in anew])
    with writing(record.folder, MAKE_ROOM):
        save_tensors(found, record.folder / SWAPS)
    return record.folder / SWAPS


def write_compressed(record: Record, home: Path) -> list[Path]:
    """The best and the last network in a quarter of the bytes, as ``NAME-seed0-best.safetensors``.

    Convolutions have 8 bits (see :func:`ccnotes.weights.in_eight_bits`), all else float16. In the
    folder ``home``, which is made if need be; ``ccnotes.records.load_model`` reads them.
    Returns the files. Raises ValueError where the record's folder has no networks.

    >>> from ccnotes.experiments import Experiment
    >>> from ccnotes.records import load_model, run
    >>> record = run(Experiment(train_size=6, validation_size=6, test_size=6, width=4, epochs=1))
    >>> best, last = write_compressed(record, Path("small"))
    >>> best.name, load_model(best).head.out_features
    ('custom-seed0-best.safetensors', 6)
    """
    found = {which: record.model(which).state_dict() for which in WEIGHTS}  # or the error
    made = []
    with writing(home, MAKE_ROOM):
        home.mkdir(parents=True, exist_ok=True)
        for which, weights in found.items():
            with safe_open(record.folder / WEIGHTS[which], "pt") as file:
                about = file.metadata()
            small = {
                name: value.half() if value.is_floating_point() else value
                for name, value in in_eight_bits(weights).items()
            }
            e = record.configuration
            made.append(home / f"{e.name}-seed{e.seed}-{which}.safetensors")
            save_tensors(small, made[-1], about)
    return made
