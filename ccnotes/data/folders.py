"""Folders of image files: which files count, and what their pixels are."""

import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ccnotes.checks import few, warn
from ccnotes.data.dataset import DataError
from ccnotes.data.jpeg import check_jpeg
from ccnotes.files import sha256_of
from ccnotes.types import Pixels

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # PIL lets others run programs
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
HIDDEN = (  # beside .anything
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"),
    *("Thumbs.db", "desktop.ini"),
)
JOINERS = str.maketrans("", "", "\u200c\u200d")  # unseen, but words and emoji need them
MOST_PIXELS = 80_000_000  # of a file; eight are decoded at once
DARK = 64  # of 256 levels: what 14 of 16 bits come to
SAMPLE_FORMAT, BITS_PER_SAMPLE, PHOTOMETRIC = 339, 258, 262  # TIFF's tags


def list_images(part: Path) -> dict[str, list[Path]]:
    """The images of each class under ``part``, both in alphabetical order."""
    if not part.is_dir():
        raise FileNotFoundError(
            f"{part} is not a folder. imagefolder:PATH needs images as PATH/train/<class>/* and "
            f"PATH/test/<class>/*."
        )
    classes = class_folders(part)
    if len(classes) < 2:
        raise DataError(f"{part} has {len(classes)} class folders. Classifying takes at least two.")
    found = {name: files_under(folder) for name, folder in sorted(classes.items())}
    images = {name: [f for f in files if is_image(f)] for name, files in found.items()}
    others = [f for files in found.values() for f in files if not is_image(f)]
    others += sorted(f for f in part.iterdir() if is_image(f) and f.is_file())
    left = few([f.relative_to(part).as_posix() for f in others])
    if empty := [classes[name] for name, files in images.items() if not files]:
        raise DataError(
            f"{empty[0]} has no images ({', '.join(EXTENSIONS)}). Add some, or remove it."
            + f" Passed over in {part}: {left}." * bool(others)
        )
    if others:
        warn(
            f"passed over in {part}: {left}. Images are files in class folders whose names end in "
            f"{', '.join(EXTENSIONS)}. Move or convert what should count."
        )
    return images


def class_folders(part: Path) -> dict[str, Path]:
    """Class names, and where each class's images lie.

    Names are composed (Unicode's NFC), since file systems differ in how they write an é.
    """
    found: dict[str, Path] = {}
    for folder in part.iterdir():
        if hidden(folder.name):
            continue
        check_link(folder)
        if not folder.is_dir():
            continue
        name = unicodedata.normalize("NFC", folder.name)
        if not name.translate(JOINERS).isprintable():
            raise DataError(
                f"the class folder {folder.name!r} in {part} has a character in its name that "
                f"cannot be shown. Rename it."
            )
        if name in found:
            raise DataError(
                f"{part} has two class folders called {name}, one with its accents composed, one "
                f"with them apart. Move the images of one into the other."
            )
        found[name] = folder
    return found


def files_under(folder: Path) -> list[Path]:
    """The files at any depth, but for hidden ones and those in hidden folders.

    Links to folders are followed, after all that lies in ``folder`` itself; of folders that are
    reached twice, as by links in a circle, the files are given once.
    """

    def unreadable(error: OSError) -> None:
        raise error  # else such folders would be passed over

    found: list[Path] = []
    seen: set[str] = set()
    starts = [folder]
    for start in starts:  # links that are found come behind it
        if os.path.realpath(folder).startswith(os.path.join(os.path.realpath(start), "")):
            raise DataError(f"{start} is a link to a folder that it lies in itself. Remove it.")
        for where, folders, files in os.walk(start, onerror=unreadable):
            real = os.path.realpath(where)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not hidden(name)]
            starts += [
                Path(where, name) for name in sorted(folders) if Path(where, name).is_symlink()
            ]
            found += [Path(where, name) for name in files if not hidden(name)]
    for path in found:
        check_link(path)
    return sorted(found, key=Path.as_posix)


def check_link(path: Path) -> None:
    """DataError for a link to nothing, of which nobody knows whether it were an image."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to nothing that is there. Replace or delete it.")


def hidden(name: str) -> bool:
    return name.startswith(".") or name in HIDDEN


def is_image(path: Path) -> bool:
    return path.name.lower().endswith(EXTENSIONS) and not hidden(path.name)


def digest(path: Path) -> str:
    """The SHA-256 of an image file's content."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is no file, or a link to none. Replace or delete it.")
    return sha256_of(path)


def decode(files: list[Path], image_size: int | None) -> Pixels:
    """RGB images, fitted to squares of side ``image_size``, or all as large as the first."""
    size = (image_size, image_size) if image_size else read_image(files[0], None).size
    width, height = size
    demand_memory(len(files), width, height)
    images = np.empty((len(files), 3, height, width), np.uint8)
    dark: list[Path] = []

    def read(index: int) -> None:
        image = read_image(files[index], image_size)
        if image.size != size:
            raise DataError(
                f"{files[index]} has {image.width} x {image.height} pixels, {files[0]} has "
                f"{width} x {height}. Fit all to one size by image_size=N."
            )
        if image.info["dark"]:
            dark.append(files[index])
        images[index] = np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(read, range(len(files))), "decoding", len(files), unit=" images"):
            pass
    if dark:
        warn(
            f"{len(dark)} of the images have 16 bits a channel and use less than 14 of these, as "
            f"data of 12 bits do, so that they come out dark: {few(sorted(map(str, dark)))}. If "
            f"they should not be, multiply 12 bits by 65535 / 4095 and save them anew."
        )
    return torch.from_numpy(images)


def demand_memory(count: int, width: int, height: int) -> None:
    """DataError where this machine cannot hold so many images twice, as their split does."""
    needed, there = 2 * 3 * width * height * count, main_memory()
    if needed > there:
        raise DataError(
            f"{count:,} images of {width:,} x {height:,} pixels take {needed / 1e9:,.1f} GB while "
            f"they are split; this machine has {there / 1e9:,.1f}. Fit them to a smaller size "
            f"by image_size=N."
        )


def main_memory() -> float:
    """In bytes; infinite where the system does not tell."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def read_image(path: Path, image_size: int | None) -> Image.Image:
    """The file's first picture, as people see it: upright, in RGB, 8 bits a channel.

    Its ``info["dark"]`` says whether the file has 16 bits and uses only the lower ones.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:
                raise ValueError(f"{file.width} x {file.height} pixels are too many; shrink it")
            sixteen = any(re.search(";16|65535", str(tile[3])) for tile in file.tile)
            if file.format in ("JPEG", "MPO"):
                check_jpeg(path.read_bytes(), file.tobytes())
            ImageOps.exif_transpose(file, in_place=True)
            if is_transparent(file):
                raise ValueError("it has transparent pixels: put it on a background, and save that")
            image = to_rgb(file)
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise DataError(
            f"{path} cannot be read as an image ({error}). Replace or delete it."
        ) from error
    image.info["dark"] = sixteen and 0 < np.asarray(image).max() < DARK
    return image if image_size is None else ImageOps.fit(image, (image_size, image_size))


def is_transparent(image: Image.Image) -> bool:
    """Whether what is seen depends on a background; the colours of such pixels mean nothing."""
    if not image.has_transparency_data:
        return False
    key = image.info.get("transparency")  # the colour that is not seen
    if image.mode.startswith("I") or (isinstance(key, tuple) and max(key) > 255):
        return True  # such colours of 16 bits PIL does not find
    return bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; of grey images with 16 bits, the nearest of the 256 levels.

    Of colours with 16 bits PIL gives the upper byte, less than one level from that.
    ValueError where the range of the numbers is not known: PIL would clip them without a word.
    """
    tags = getattr(image, "tag_v2", {})
    signed = set(tags.get(SAMPLE_FORMAT, (1,))) != {1}
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr") and not signed:
        return image.convert("RGB")
    sixteen = tags.get(BITS_PER_SAMPLE, (16,)) == (16,)  # as in PNG and PPM
    black_is_zero = tags.get(PHOTOMETRIC, 1) == 1
    if signed or not (image.mode.startswith("I") and sixteen and black_is_zero):
        raise ValueError(
            f"what its numbers mean as pixels is not known, mode {image.mode}; save it with 8 bits "
            f"a channel, or as a grey PNG with 16"
        )
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
