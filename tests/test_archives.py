"""SVHN and TinyImageNet, in archives that are laid out like theirs."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ccnotes import data
from ccnotes.data import Download, archives, load_photos


def put(monkeypatch, name, path):
    """Let ``path`` be the archive called so, as if it had been downloaded."""
    content = path.read_bytes()
    there = Download(
        filename=path.name,
        urls=(),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(archives.ARCHIVES, name, there)


def test_svhn_is_read_from_matlab_s_files_and_its_zeros_are_called_so(monkeypatch, tmp_path):
    parts = {}
    for name, each in (("train", 3), ("test", 2)):
        pixels = np.random.default_rng(each).integers(256, size=(32, 32, 3, 10 * each))
        labels = np.tile(np.arange(1, 11), each)  # 1 to 9, and 10 for 0
        parts[name] = pixels.astype(np.uint8), labels
        file = tmp_path / f"{name}_32x32.mat"
        savemat(file, {"X": parts[name][0], "y": labels[:, None].astype(np.uint8)})
        put(monkeypatch, f"svhn-{name}", file)
    found = load_photos("svhn", data_dir=tmp_path, validation_size=0)
    assert (found.name, found.title, found.groups) == ("svhn", "SVHN", None)
    assert found.classes == tuple("0123456789")
    assert found.identity == data.KNOWN["svhn"]
    pixels, labels = parts["test"]
    assert found.test.labels.tolist() == [label % 10 for label in labels]
    assert found.test.images[4, 2, 5, 6] == pixels[5, 6, 2, 4]
    assert len(found.train) == 30
    again = load_photos("svhn", data_dir=tmp_path, validation_size=0)
    assert torch.equal(again.train.images, found.train.images)


NUMBERS = ("n02124075", "n01443537", "n04067472")  # as in wnids.txt: in no order
WORDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus"}
WORDS |= {"n04067472": "reel", "n00000001": "not among them", "n03976657": "pole"}


def tiny_imagenet(path, words=WORDS):
    """Two training images a class and one of validation; the colour tells class and image."""

    def picture(label, number, mode="RGB"):
        file = io.BytesIO()
        colour = (80 * label, 20 * number, 99)
        Image.new("RGB", (64, 64), colour).convert(mode).save(file, "jpeg", quality=95)
        return file.getvalue()

    root = "tiny-imagenet-200"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/wnids.txt", "\n".join(NUMBERS) + "\n")
        file.writestr(f"{root}/words.txt", "".join(f"{k}\t{v}\n" for k, v in words.items()))
        rows = []
        for label, number in enumerate(NUMBERS):
            for n in (0, 1):
                place = f"{root}/train/{number}/images/{number}_{n}.JPEG"
                file.writestr(place, picture(label, n, "L" if n else "RGB"))
            file.writestr(f"{root}/train/{number}/{number}_boxes.txt", f"{number}_0.JPEG\t0\t0\n")
            rows.insert(0, f"val_{label}.JPEG\t{number}\t0\t32\t44\t62\n")
            file.writestr(f"{root}/val/images/val_{label}.JPEG", picture(label, 5))
        file.writestr(f"{root}/val/val_annotations.txt", "".join(rows))
        file.writestr(f"{root}/test/images/test_0.JPEG", picture(0, 9))


def test_tiny_imagenet_finds_the_classes_of_its_validation_images_in_their_table(
    monkeypatch, tmp_path
):
    tiny_imagenet(tmp_path / "tiny-imagenet-200.zip")
    put(monkeypatch, "tiny-imagenet", tmp_path / "tiny-imagenet-200.zip")
    found = load_photos("tiny-imagenet", data_dir=tmp_path, validation_size=0)
    assert (found.name, found.title) == ("tiny-imagenet", "TinyImageNet")
    assert found.classes == ("Egyptian cat", "goldfish", "reel")
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.test.images.shape == (3, 3, 64, 64)
    for image, label in zip(found.test.images, found.test.labels, strict=True):
        assert abs(image[0].float().mean() - 80 * label) < 4  # as JPEG rounds
        assert abs(image[1].float().mean() - 100) < 4
    grey = found.train.images[1]
    assert torch.equal(grey[0], grey[2])
    assert not list(tmp_path.glob("*.unpacked*"))
    with pytest.raises(ValueError, match="whose images are 64 x 64"):
        load_photos("tiny-imagenet", data_dir=tmp_path, image_size=32)


def test_classes_of_one_word_are_told_apart_by_their_number(monkeypatch, tmp_path):
    tiny_imagenet(tmp_path / "t.zip", WORDS | {"n04067472": "goldfish, of tin"})
    put(monkeypatch, "tiny-imagenet", tmp_path / "t.zip")
    found = load_photos("tiny-imagenet", data_dir=tmp_path, validation_size=0)
    assert found.classes == ("Egyptian cat", "goldfish (n01443537)", "goldfish (n04067472)")


def test_the_archives_are_those_that_others_have():
    """Size and digest as others give them for the same files."""
    sizes = {name: file.size for name, file in data.ARCHIVES.items()}
    assert sizes["tiny-imagenet"] == 248_100_043
    assert (sizes["svhn-train"], sizes["svhn-test"]) == (182_040_794, 64_275_384)
    assert all(len(file.sha256) == 64 for file in data.ARCHIVES.values())
