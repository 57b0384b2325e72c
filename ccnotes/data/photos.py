"""CIFAR from its archives and photographs from folders, each decoded once and kept."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm

from ccnotes.checks import few
from ccnotes.data.archives import ARCHIVES as ARCHIVES, SIDES, Photos as Photos, unpack
from ccnotes.data.dataset import DataError, Dataset, Split, split, unlabelled_part
from ccnotes.data.downloads import MAKE_ROOM, data_folder
from ccnotes.data.folders import decode, digest, list_images
from ccnotes.files import locked, save_tensors, writing

RULES = 2  # which files are refused; raise it with them, so that no cache has what is refused now
CACHES_KEPT = 8  # of image folders; each may take gigabytes
# The last is of decoded pixels, on which Pillow 10 to 13 (libjpeg-turbo 3.0 to 3.2) and torchvision
# agree. What a decoder that rounds otherwise makes of the files is other data: no name, no records.
KNOWN = {
    "cifar10": ARCHIVES["cifar10"].sha256,
    "cifar100": ARCHIVES["cifar100"].sha256,
    "tiny-imagenet": ARCHIVES["tiny-imagenet"].sha256,
    "svhn": ARCHIVES["svhn-train"].sha256,  # that of its test images is checked as well
    "cifar10-jpeg": "25b5e07fe2e8c12bdb327d65b9f259d2c183f6a8766d5ce45fede6bfc59f844f",
}
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "TinyImageNet",
    "svhn": "SVHN",
    "cifar10-jpeg": "CIFAR-10 (JPEG)",
}


def load_photos(
    name: str,
    *,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    train_size: int | None = None,
    validation_size: int = 1000,
    unlabelled_size: int = 0,
    seed: int = 0,
) -> Dataset:
    """Load photographs by their name, or ``"imagefolder:PATH"``.

    Names are ``"cifar10"``, ``"cifar100"`` (its 20 superclasses are the groups of its classes),
    ``"svhn"``, ``"tiny-imagenet"`` (its validation images are those to test on) and
    ``"cifar10-jpeg"``.

    ``PATH/train/<class>/*`` and ``PATH/test/<class>/*`` are images (JPEG, PNG, GIF, TIFF, WebP,
    BMP, PPM), all of one size unless ``image_size`` (pixels) gives the side of the square that they
    are fitted to. Links are followed. Files and folders whose names begin with a dot do not count;
    a warning names other files that do not. ``PATH/groups.json`` may say which classes belong
    together: ``{"animals": ["cat", "dog"], "vehicles": ["car"]}``. Classes are numbered in
    alphabetical order, as by torchvision's ``ImageFolder``: classes called 1 to 10 as 1, 10, 2, ...
    Photos are turned upright as their EXIF data say, which ``ImageFolder`` does not. Of a file with
    several pictures the first counts. Refused are transparent images, whose hidden colours mean
    nothing, JPEG files that were cut off, and numbers whose range is not known, such as 32-bit
    TIFFs; files of 16 bits that use only the lower ones, and so come out dark, are warned of.

    Validation images are split off the training images, the same for every ``seed``, which draws
    the ``train_size`` images (``None``: all) from the rest. Both draws are balanced over classes.
    ``unlabelled_size`` more images are apart from all of these.

    ValueError for a setting out of range, FileNotFoundError for a folder that is not there,
    DataError for files that cannot be read or written and for downloads that fail.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
    ...         (Path(folder) / place).mkdir(parents=True)
    ...         Image.new("RGB", (8, 6), "red").save(Path(folder) / place / "0.png")
    ...     data = load_photos(f"imagefolder:{folder}", data_dir=folder, validation_size=0)
    >>> data.classes, data.test.images.shape, data.test.labels
    (('cat', 'dog'), torch.Size([2, 3, 6, 8]), tensor([0, 1]))
    """
    photos, identity = all_photos(name, data_folder(data_dir), image_size)
    known = {identity: name for name, identity in KNOWN.items()}.get(identity)
    train, validation = split(photos.train, train_size, validation_size, seed)
    unlabelled = None
    if unlabelled_size:
        sizes = (train_size, validation_size, seed, unlabelled_size)
        unlabelled = unlabelled_part(photos.train, *sizes)
    return Dataset(
        name=known or "imagefolder",
        title=TITLES[known] if known else "image folder",
        classes=photos.classes,
        train=train,
        validation=validation,
        test=photos.test,
        unlabelled=unlabelled,
        identity=identity,
        groups=photos.groups,
    )


def all_photos(name: str, folder: Path, image_size: int | None) -> tuple[Photos, str]:
    """The data called ``name``, before they are split, and their identity."""
    side = SIDES.get(name, 32)
    if name in KNOWN and image_size not in (None, side):
        raise ValueError(
            f"image_size={image_size} does not fit {name!r}, whose images are {side} x {side}: "
            f"only image folders are resized. Leave it out, or load imagefolder:PATH."
        )
    if name in KNOWN and name != "cifar10-jpeg":  # known by its archive's content
        return cached(folder, name, lambda: unpack(name, folder)), KNOWN[name]
    if name == "cifar10-jpeg":
        photos = decoded_before(name, folder)
    elif name.startswith("imagefolder:"):
        root = Path(name.removeprefix("imagefolder:")).expanduser()
        photos = image_folder(root, folder, image_size)
    else:
        raise ValueError(
            f"data {name!r} is not one of 'planted', 'parts', 'cifar10', 'cifar100', 'svhn', "
            f"'tiny-imagenet', 'cifar10-jpeg', 'imagefolder:PATH'."
        )
    return photos, photos.sha256


def cached(folder: Path, name: str, make: Callable[[], Photos]) -> Photos:
    """What the cache file ``name`` holds; where it is missing or damaged, what ``make`` gives."""
    cache, kind = folder / f"{name}.safetensors", name.partition("-")[0]
    if (photos := read_cache(cache)) is None:
        with locked(folder / f"{kind}.lock", MAKE_ROOM, DataError):
            if (photos := read_cache(cache)) is None:  # another process may just have made it
                photos = make()
                with writing(folder, MAKE_ROOM, DataError):
                    write_cache(cache, folder / f"{kind}.part", photos)
    return photos


def write_cache(cache: Path, unfinished: Path, photos: Photos) -> None:
    """Keep the photographs. One unfinished file for all caches is the most that kills leave."""
    tensors = {
        "train_images": photos.train.images,
        "train_labels": photos.train.labels,
        "test_images": photos.test.images,
        "test_labels": photos.test.labels,
    }
    about = {"classes": json.dumps(photos.classes), "sha256": photos.sha256}
    if photos.groups is not None:
        about["groups"] = json.dumps(photos.groups)
    save_tensors(tensors, cache, about, by=unfinished)


def drop_old(folder: Path, used: str) -> None:
    """Delete caches of image folders, but for those last used and those of known data."""
    with suppress(OSError):  # in a folder of others, say
        os.utime(folder / f"{used}.safetensors")
        caches = folder.glob("imagefolder-*.safetensors")
        old = [path for path in caches if claimed(path) not in KNOWN.values()]
        for path in sorted(old, key=lambda path: path.stat().st_mtime)[:-CACHES_KEPT]:
            path.unlink()


def claimed(cache: Path) -> str | None:
    """The SHA-256 that a cache file says its content has."""
    try:
        with safe_open(cache, "pt") as file:
            return str(file.metadata()["sha256"])
    except Exception:  # as below
        return None


def read_cache(cache: Path) -> Photos | None:
    """The images of a cache file, or None where it is missing or not as it was written."""
    try:
        with safe_open(cache, "pt") as file:
            about = file.metadata()
            tensor = file.get_tensor
            groups = json.loads(about.get("groups", "null"))
            if groups is None and cache.stem == "cifar100":
                return None  # an earlier version kept no superclasses
            photos = Photos(
                classes=tuple(json.loads(about["classes"])),
                train=Split(images=tensor("train_images"), labels=tensor("train_labels")),
                test=Split(images=tensor("test_images"), labels=tensor("test_labels")),
                groups=None if groups is None else tuple(groups),
            )
        parts = (photos.train, photos.test)
        typed = all((p.images.dtype, p.labels.dtype) == (torch.uint8, torch.int64) for p in parts)
        return photos if typed and photos.sha256 == about["sha256"] else None
    except Exception:  # flipped bits of its header make safetensors and torch raise nearly anything
        return None


def loaded_before(name: str, data_dir: Path | str | None = None) -> bool:
    """Whether the known data are in the data folder, so that loading them needs no network.

    >>> loaded_before("cifar10", data_dir=".")
    False
    """
    folder = data_folder(data_dir)
    if name in ARCHIVES:
        return (folder / f"{name}.safetensors").exists()
    return any(claimed(path) == KNOWN[name] for path in folder.glob("imagefolder-*.safetensors"))


def decoded_before(name: str, folder: Path) -> Photos:
    """The known image folder ``name`` from the cache of an earlier run."""
    for cache in sorted(folder.glob("imagefolder-*.safetensors")):
        if claimed(cache) == KNOWN[name] and (photos := read_cache(cache)):
            return photos
    raise FileNotFoundError(
        f"{name!r} has not been loaded into {folder} yet. Load imagefolder:PATH once "
        f"in its place, PATH a folder of CIFAR-10 as JPEG files, train|test/<class>/NNNN.jpg."
    )


def image_folder(root: Path, folder: Path, image_size: int | None) -> Photos:
    """All images under ``root``, decoded anew only where a file or ``image_size`` changed."""
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size} must be at least 1 pixel.")
    train, test = list_images(root / "train"), list_images(root / "test")
    if differing := sorted(set(train) ^ set(test)):
        raise DataError(
            f"{root}: train/ and test/ must have the same classes, but only one of them has "
            f"{', '.join(differing)}. Add or remove these folders."
        )
    files = [path for part in (train, test) for paths in part.values() for path in paths]
    key = hashlib.sha256(f"{RULES} {image_size}".encode())
    for path in tqdm(files, "reading", unit=" files", delay=5):
        key.update(json.dumps([path.relative_to(root).as_posix(), digest(path)]).encode())

    groups = groups_of(root, tuple(train))
    if groups is not None:
        key.update(json.dumps(groups).encode())

    def make() -> Photos:
        images = decode(files, image_size)
        labels = [
            torch.tensor([label for label, paths in enumerate(part.values()) for _ in paths])
            for part in (train, test)
        ]
        cut = len(labels[0])
        return Photos(
            classes=tuple(train),
            train=Split(images=images[:cut], labels=labels[0]),
            test=Split(images=images[cut:], labels=labels[1]),
            groups=groups,
        )

    name = f"imagefolder-{key.hexdigest()[:16]}"
    photos = cached(folder, name, make)
    drop_old(folder, used=name)
    return photos


def groups_of(root: Path, classes: tuple[str, ...]) -> tuple[int, ...] | None:
    """The group of each class by the folder's ``groups.json``; None where there is none.

    Raises DataError for a file that does not put each class into exactly one group.

    >>> _ = Path("groups.json").write_text('{"animals": ["cat", "dog"], "vehicles": ["car"]}')
    >>> groups_of(Path("."), ("car", "cat", "dog"))
    (1, 0, 0)
    """
    file = root / "groups.json"
    if not file.exists():
        return None
    form = '{"animals": ["cat", "dog"], "vehicles": ["car"]}'
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        members = [[str(name) for name in names] for names in content.values()]
        if any(isinstance(names, str) for names in content.values()):
            raise TypeError("a group is a list of classes")
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read as groups ({error}). Write it as {form}."
        ) from error
    listed = [unicodedata.normalize("NFC", name) for names in members for name in names]
    wrong = sorted({name for name in listed if listed.count(name) > 1 or name not in classes})
    wrong += sorted(set(classes) - set(listed))
    if wrong:
        raise DataError(
            f"{file} must name each class in exactly one group, as in {form}, and does not for "
            f"{few(wrong)}. Classes are the folders' names."
        )
    place = {
        unicodedata.normalize("NFC", name): number
        for number, names in enumerate(members)
        for name in names
    }
    return tuple(place[name] for name in classes)
