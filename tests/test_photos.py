"""Image folders and caches, on small folders that are made anew for each test."""

import io
import itertools
import json
import os
import random
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from ccnotes.data import KNOWN, DataError, Split, load_photos, photos as room


def photo(number, size=(8, 6)):
    """A smooth picture, no two alike, as photos are: noise would be mangled by JPEG."""
    colours = random.Random(number)
    small = Image.new("RGB", (2, 2))
    small.putdata([tuple(colours.randrange(256) for _ in range(3)) for _ in range(4)])
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Three classes of eight training and two test photos, 8 x 6 pixels."""
    numbers = iter(range(1000))
    for part, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog", "emu"):
            where = tmp_path / "pets" / part / name
            where.mkdir(parents=True)
            for n in range(count):
                photo(next(numbers)).save(where / f"{n}.jpg")
    return tmp_path / "pets"


@pytest.fixture
def load(folder, tmp_path):
    def load(validation_size=6, **settings):
        return load_photos(
            f"imagefolder:{folder}",
            data_dir=tmp_path / "cache",
            validation_size=validation_size,
            **settings,
        )

    return load


@pytest.fixture
def no_decoding(monkeypatch):
    def decode(files, image_size):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(room, "decode", decode)


def rows(split):
    return {bytes(image.numpy()) for image in split.images}


# --- image folders


def test_an_image_folder_is_what_pil_decodes(folder, load):
    photos = load()
    assert (photos.name, photos.title, photos.classes) == (
        "imagefolder",
        "image folder",
        ("cat", "dog", "emu"),
    )
    assert photos.test.images.shape == (6, 3, 6, 8)
    assert photos.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with Image.open(folder / "test" / "dog" / "1.jpg") as image:
        pixels = np.array(image)
    assert torch.equal(photos.test.images[3], torch.from_numpy(pixels).permute(2, 0, 1))


def test_grey_and_palette_images_become_rgb(folder, load):
    photo(1).convert("L").save(folder / "test" / "cat" / "0.png")
    photo(2).convert("P").save(folder / "test" / "cat" / "1.png")
    images = load().test.images  # 0.jpg, 0.png, 1.jpg, 1.png, ...
    assert images.shape == (8, 3, 6, 8)
    assert torch.equal(images[1, 0], images[1, 1])
    assert not torch.equal(images[3, 0], images[3, 1])


def test_images_in_subfolders_count_and_hidden_or_other_files_do_not(folder, load):
    (folder / "test" / "cat" / "more").mkdir()
    photo(99).save(folder / "test" / "cat" / "more" / "9.JPG", "jpeg")
    (folder / "test" / "cat" / "notes.txt").write_text("not an image")
    (folder / "test" / "cat" / "._0.jpg").write_text("not an image either")
    (folder / "test" / ".cache").mkdir()
    with pytest.warns(UserWarning, match="passed over in .*test: cat/notes.txt") as warned:
        assert load().test.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert warned[0].filename == __file__


def test_the_second_load_reads_the_cache(load, no_decoding):
    first = load()
    no_decoding()
    second = load()
    assert second.identity == first.identity
    assert torch.equal(second.train.images, first.train.images)
    assert torch.equal(second.test.labels, first.test.labels)


def test_a_changed_file_is_decoded_anew(folder, load):
    before = load()
    photo(500).save(folder / "test" / "cat" / "0.jpg")
    after = load()
    assert not torch.equal(after.test.images[0], before.test.images[0])
    assert after.identity != before.identity


def test_a_change_that_keeps_the_size_is_seen(folder, load):
    before = load()
    for path in sorted((folder / "test" / "cat").iterdir()):  # as large, and of another time
        whole = bytearray(path.read_bytes())
        whole[whole.index(b"\xff\xdb") + 5] += 40  # how far one step is of the mean brightness
        path.write_bytes(whole)
    assert load().identity != before.identity


def test_folders_whose_files_agree_in_name_size_and_time_are_told_apart(tmp_path):
    """As `tar --mtime` and `git archive` make them."""
    found = {}
    for name, shade in (("day", 200), ("night", 20)):
        for place in ("train/a", "train/b", "test/a", "test/b"):
            path = tmp_path / name / place / "0.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4), (shade,) * 3).save(path)
            os.utime(path, (0, 0))
        where = f"imagefolder:{tmp_path / name}"
        found[name] = load_photos(where, data_dir=tmp_path / "cache", validation_size=0)
    assert found["day"].test.images.unique().tolist() == [200]
    assert found["night"].test.images.unique().tolist() == [20]
    assert found["day"].identity != found["night"].identity


def test_a_file_that_was_only_touched_or_copied_is_not_decoded_again(folder, load, no_decoding):
    before = load()
    no_decoding()
    for path in folder.rglob("*.jpg"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (0, 0))
    assert load().identity == before.identity


def test_each_image_size_has_a_cache_of_its_own(load):
    assert load(image_size=4).test.images.shape == (6, 3, 4, 4)
    assert load(image_size=5).test.images.shape == (6, 3, 5, 5)


def test_two_at_once_decode_once(load, monkeypatch):
    calls, decode = [], room.decode

    def slowly(files, image_size):
        calls.append(len(files))
        time.sleep(0.1)
        return decode(files, image_size)

    monkeypatch.setattr(room, "decode", slowly)
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: load(), range(2))
    assert a.identity == b.identity
    assert calls == [30]


def test_a_moved_folder_is_not_decoded_again(folder, load, no_decoding, tmp_path):
    before = load()
    no_decoding()
    folder.rename(tmp_path / "elsewhere")
    name = f"imagefolder:{tmp_path / 'elsewhere'}"
    moved = load_photos(name, data_dir=tmp_path / "cache", validation_size=6)
    assert moved.title == "image folder"
    assert moved.identity == before.identity


def test_identity_is_of_all_the_images_whatever_is_made_of_them(folder, load):
    assert load().identity == load(train_size=6, validation_size=3, seed=5).identity


def test_the_recipe_of_identities_stays_as_it_is():
    """Else no record would be found again, and CIFAR-10 as JPEG not be recognised."""
    part = Split(
        images=torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), labels=torch.tensor([0, 1])
    )
    photos = room.Photos(classes=("cat", "dog"), train=part, test=part)
    assert photos.sha256 == "03a137328619286791cc86edfff9bace5037033fd3af4d0a71be64be7e1430f0"


def test_identity_tells_class_names_apart(folder, load):
    before = load().identity
    for part in ("train", "test"):
        (folder / part / "emu").rename(folder / part / "fox")
    assert load().identity != before


@pytest.mark.parametrize("damage", ["truncated", "one bit", "not safetensors"])
def test_a_damaged_cache_is_made_again(damage, load, tmp_path):
    before = load()
    (cache,) = (tmp_path / "cache").glob("*.safetensors")
    content = bytearray(cache.read_bytes())
    if damage == "truncated":
        content = content[:-100]
    elif damage == "one bit":
        content[-100] ^= 1
    else:
        content = b"nonsense"
    cache.write_bytes(content)
    assert torch.equal(load().train.images, before.train.images)
    assert cache.stat().st_size > 1000


def test_an_interrupted_run_leaves_no_half_cache(load, tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ccnotes.files.os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["imagefolder.lock"]
    assert len(load().test) == 6


def test_what_a_killed_run_left_is_removed_not_written_to(load, tmp_path):
    """It may be another user's, or a link to another file."""
    (tmp_path / "cache").mkdir()
    other = tmp_path / "other"
    other.write_bytes(b"of another user")
    (tmp_path / "cache" / "imagefolder.part").symlink_to(other)
    load()
    assert not list((tmp_path / "cache").glob("*.part"))
    assert other.read_bytes() == b"of another user"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_said_and_leaves_no_cache(load, tmp_path, monkeypatch):
    def full(descriptor):
        with open("/dev/full", "wb") as file:
            file.write(b"anything")

    monkeypatch.setattr("ccnotes.files.os.fsync", full)
    with pytest.raises(
        DataError, match=r"cache cannot be written to \(No space.*by \$CCNOTES_DATA or data_dir"
    ):
        load()
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_others_may_read_the_cache_as_the_umask_says(load, tmp_path):
    before = os.umask(0o027)
    try:
        load()
    finally:
        os.umask(before)
    (cache,) = (tmp_path / "cache").glob("*.safetensors")
    assert stat.filemode(cache.stat().st_mode) == "-rw-r-----"


def test_every_flipped_bit_of_a_cache_s_header_is_found(load, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as at run time
    whole = load()
    (cache,) = (tmp_path / "cache").glob("*.safetensors")
    content = cache.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    assert room.read_cache(cache)
    for place in range(header):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        cache.write_bytes(spoilt)
        if (found := room.read_cache(cache)) is not None:  # white space, or the key's own name
            assert torch.equal(found.test.images, whole.test.images)
            assert (found.classes, found.sha256) == (whole.classes, whole.identity)


def test_a_cache_of_other_types_is_none(load, tmp_path, monkeypatch):
    """Signed bytes have the same digest, and at run time nothing else checks types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    load()
    (cache,) = (tmp_path / "cache").glob("*.safetensors")
    content = cache.read_bytes()
    assert content.count(b'"U8"') == 2
    cache.write_bytes(content.replace(b'"U8"', b'"I8"'))
    assert room.read_cache(cache) is None


def test_caches_of_folders_that_were_changed_do_not_pile_up(folder, load, tmp_path, monkeypatch):
    """Those last used are kept, and the one of known data, which is found by its content."""
    monkeypatch.setattr(room, "CACHES_KEPT", 2)
    clock = itertools.count(1000)
    utime = os.utime
    monkeypatch.setattr(room.os, "utime", lambda path: utime(path, (next(clock),) * 2))
    monkeypatch.setitem(room.KNOWN, "cifar10-jpeg", load().identity)
    found = [load(image_size=size).identity for size in (2, 3, 2, 4)]
    kept = {room.claimed(cache) for cache in (tmp_path / "cache").glob("*.safetensors")}
    assert kept == {room.KNOWN["cifar10-jpeg"], found[0], found[3]}


def test_image_size_fits_the_shorter_side_and_crops_the_middle(folder, load):
    wide = Image.new("RGB", (32, 16), "red")
    wide.paste("blue", (8, 0, 24, 16))  # the middle square
    wide.save(folder / "test" / "cat" / "0.png")
    (folder / "test" / "cat" / "0.jpg").unlink()
    images = load(image_size=4).test.images
    assert images.shape == (6, 3, 4, 4)
    assert images[0, 2, :, 1:3].min() > 250  # blue; antialiasing mixes nothing into it
    assert images[0, 0, :, 1:3].max() < 5


def test_an_image_size_that_they_have_already_changes_nothing(folder, load):
    for path in folder.rglob("*.jpg"):
        photo(path.as_posix(), (6, 6)).save(path)
    assert load(image_size=6).identity == load().identity


def test_mixed_sizes_name_the_first_that_differs_and_the_remedy(folder, load):
    photo(1, (9, 7)).save(folder / "train" / "dog" / "3.jpg")
    photo(1, (5, 5)).save(folder / "train" / "emu" / "3.jpg")
    with pytest.raises(DataError, match=r"dog.3\.jpg has 9 x 7 .* has 8 x 6.*by image_size=N"):
        load()
    assert load(image_size=6).test.images.shape == (6, 3, 6, 6)


def remove_all(where):
    for path in where.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda f: f.rename(f"{f}2"), FileNotFoundError, r"train is not a folder.*PATH/train/<cl"),
        (lambda f: (f / "test").rename(f / "val"), FileNotFoundError, r"test is not a folder"),
        (lambda f: remove_all(f / "test" / "dog"), DataError, r"test.dog has no images .*Add some"),
        (lambda f: (f / "test" / "fox").mkdir(), DataError, r"fox has no images"),
        (
            lambda f: (f / "test" / "dog").rename(f / "test" / "fox"),
            DataError,
            r"same classes, but only one of them has dog, fox",
        ),
        (lambda f: (f / "train").rename(f / "test" / "a"), FileNotFoundError, r"train is not"),
    ],
    ids=["missing", "no test", "empty class", "another empty class", "classes differ", "no train"],
)
def test_a_folder_that_will_not_do(harm, error, message, folder, load):
    harm(folder)
    with pytest.raises(error, match=message):
        load()


def test_a_single_class_will_not_do(folder, load):
    for part in ("train", "test"):
        for name in ("dog", "emu"):
            remove_all(folder / part / name)
            (folder / part / name).rmdir()
    with pytest.raises(DataError, match=r"has 1 class folders.*at least two"):
        load()


@pytest.mark.parametrize("content", [b"no image", b"", "half"], ids=str)
def test_a_corrupt_image_is_named_and_nothing_is_cached(content, folder, load, tmp_path):
    path = folder / "train" / "dog" / "3.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=r"dog.3\.jpg cannot be read as an image .*Replace or del"):
        load()
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_damaged_png_is_named(folder, load):
    whole = io.BytesIO()
    photo(1).save(whole, "png")
    damaged = bytearray(whole.getvalue())
    damaged[60] ^= 255
    (folder / "train" / "cat" / "0.png").write_bytes(damaged)
    with pytest.raises(DataError, match=r"cat.0\.png cannot be read"):
        load()


def test_image_size_must_be_positive(load):
    with pytest.raises(ValueError, match=r"image_size=0 must be at least 1"):
        load(image_size=0)


# --- known data


def test_a_folder_of_known_content_gets_its_name_and_is_found_without_its_path(
    load, monkeypatch, tmp_path, no_decoding
):
    monkeypatch.setitem(room.KNOWN, "cifar10-jpeg", load().identity)
    assert (load().name, load().title) == ("cifar10-jpeg", "CIFAR-10 (JPEG)")
    no_decoding()
    (tmp_path / "cache" / "imagefolder-0.safetensors").write_bytes(b"damaged")
    again = load_photos("cifar10-jpeg", data_dir=tmp_path / "cache", validation_size=6)
    assert (again.name, again.title) == ("cifar10-jpeg", "CIFAR-10 (JPEG)")
    assert again.identity == KNOWN["cifar10-jpeg"]
    assert torch.equal(again.train.images, load().train.images)


def test_cifar10_jpeg_without_a_cache_says_how_to_load_it(load, tmp_path):
    load()  # another image folder in the same cache
    with pytest.raises(FileNotFoundError, match=r"Load imagefolder:PATH once .*<class>/NNNN\.jpg"):
        load_photos("cifar10-jpeg", data_dir=tmp_path / "cache")


def test_identities_are_known_without_the_data():
    assert KNOWN["cifar10"].startswith("6d958be0")
    assert KNOWN["cifar100"].startswith("85cd44d0")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'cifar' is not one of .*'cifar10'.*'imagefolder:PATH'"):
        load_photos("cifar", data_dir=tmp_path)


def test_cifar_is_not_resized(tmp_path):
    with pytest.raises(ValueError, match=r"image_size=64 does not fit 'cifar10'"):
        load_photos("cifar10", data_dir=tmp_path, image_size=64)


def test_sizes_and_seed_reach_the_split(load):
    a, b = load(train_size=9, validation_size=3), load(train_size=9, validation_size=3, seed=1)
    assert (len(a.train), len(a.validation), len(a.test)) == (9, 3, 6)
    assert rows(a.validation) == rows(b.validation)
    assert rows(a.train) != rows(b.train)


def test_what_was_decoded_under_other_rules_is_decoded_anew(load, monkeypatch):
    """Else a damaged file that an earlier version took would never be named."""
    before = load()
    monkeypatch.setattr(room, "RULES", room.RULES + 1)
    monkeypatch.setattr(room, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(pytest.fail.Exception, match="decoded"):
        load()
    monkeypatch.undo()
    assert load().identity == before.identity


# --- groups


PETS = {"furry": ["dog", "cat"], "feathered": ["emu"]}


def test_groups_json_says_which_classes_belong_together(folder, load, no_decoding):
    before = load()
    (folder / "groups.json").write_text(json.dumps(PETS))
    photos = load()
    assert before.groups is None
    assert photos.groups == (0, 0, 1)
    assert photos.identity != before.identity  # as what is trained by groups is another run
    no_decoding()
    assert load().groups == (0, 0, 1)
    (folder / "groups.json").unlink()
    assert load().identity == before.identity


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"furry": ["dog"], "feathered": ["emu"]}', "does not for cat"),
        ('{"furry": ["dog", "cat", "emu"], "feathered": ["emu"]}', "does not for emu"),
        ('{"furry": ["dog", "cat", "cow"], "feathered": ["emu"]}', "does not for cow"),
        ('{"furry": "dog"}', "cannot be read as groups .a group is a list"),
        ('["dog", "cat"]', "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_groups_json_that_leaves_a_class_in_doubt_is_refused(content, message, folder, load):
    (folder / "groups.json").write_text(content)
    with pytest.raises(DataError, match=rf"groups\.json .*{message}"):
        load()
