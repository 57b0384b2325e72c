import io
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ccnotes import data
from ccnotes.data import KNOWN, DataError, augment, cutout, load_photos, to_float


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

    return lambda: monkeypatch.setattr(data, "decode", decode)


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
    assert load().test.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]


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
        path.write_bytes(path.read_bytes()[:-20] + bytes(18) + b"\xff\xd9")
    assert load().identity != before.identity


def test_each_image_size_has_a_cache_of_its_own(load):
    assert load(image_size=4).test.images.shape == (6, 3, 4, 4)
    assert load(image_size=5).test.images.shape == (6, 3, 5, 5)


def test_two_at_once_decode_once(load, monkeypatch):
    calls, decode = [], data.decode

    def slowly(files, image_size):
        calls.append(len(files))
        time.sleep(0.1)
        return decode(files, image_size)

    monkeypatch.setattr(data, "decode", slowly)
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
    part = data.Split(
        images=torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), labels=torch.tensor([0, 1])
    )
    photos = data.Photos(classes=("cat", "dog"), train=part, test=part)
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
    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    assert len(load().test) == 6
    assert not list((tmp_path / "cache").glob("*.part"))


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
    with pytest.raises(DataError, match=r"dog.3\.jpg has 9 x 7 .* has 8 x 6.*--image-size N"):
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
    monkeypatch.setitem(data.KNOWN, "cifar10-jpeg", load().identity)
    assert (load().name, load().title) == ("cifar10-jpeg", "CIFAR-10 (JPEG)")
    no_decoding()
    (tmp_path / "cache" / "imagefolder-0.safetensors").write_bytes(b"damaged")
    again = load_photos("cifar10-jpeg", data_dir=tmp_path / "cache", validation_size=6)
    assert (again.name, again.title) == ("cifar10-jpeg", "CIFAR-10 (JPEG)")
    assert again.identity == KNOWN["cifar10-jpeg"]
    assert torch.equal(again.train.images, load().train.images)


def test_cifar10_jpeg_without_a_cache_says_how_to_load_it(load, tmp_path):
    load()  # another image folder in the same cache
    with pytest.raises(FileNotFoundError, match=r"--data imagefolder:PATH, .*<class>/NNNN\.jpg"):
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


def test_the_data_folder_is_the_argument_then_the_variable_then_the_users_cache(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(data, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("CCNOTES_DATA", raising=False)
    assert data.data_folder() == tmp_path / "ccnotes" / "data"
    monkeypatch.setenv("CCNOTES_DATA", str(tmp_path / "variable"))
    assert data.data_folder() == tmp_path / "variable"
    assert data.data_folder(str(tmp_path / "argument")) == tmp_path / "argument"
    assert (tmp_path / "argument").is_dir()


def test_a_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be made .*--data-dir or \$CCNOTES_DATA"):
        data.data_folder(tmp_path / "file" / "data")


# --- splits


def test_validation_is_the_same_for_every_seed_balanced_and_not_trained_on(load):
    a, b = load(seed=0, train_size=9), load(seed=1, train_size=9)
    assert rows(a.validation) == rows(b.validation)
    assert a.validation.labels.bincount().tolist() == [2, 2, 2]
    assert rows(a.train) != rows(b.train)
    for photos in (a, b, load(seed=2)):
        assert not rows(photos.train) & rows(photos.validation)


def test_the_training_subset_is_balanced_and_the_same_for_a_seed(load):
    a, b = load(train_size=11, seed=3), load(train_size=11, seed=3)
    assert torch.equal(a.train.images, b.train.images)
    assert sorted(a.train.labels.bincount().tolist()) == [3, 4, 4]
    assert rows(a.train) < rows(load().train)


def test_by_default_all_the_rest_is_trained_on_in_the_folders_order(load):
    photos = load()
    assert photos.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert len(rows(photos.train) | rows(photos.validation)) == 24


def test_a_split_does_not_depend_on_the_global_generator(load):
    torch.manual_seed(0)
    a = load(train_size=9)
    torch.manual_seed(1)
    assert torch.equal(a.train.images, load(train_size=9).train.images)


def test_small_classes_give_what_they_have():
    labels = torch.tensor([0] * 10 + [1] * 2)
    chosen = data.balanced(labels, 8, 0)
    assert labels[chosen].bincount().tolist() == [6, 2]
    assert chosen.tolist() == sorted(set(chosen.tolist()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_size": 22}, r"validation_size=22 must lie in 0\.\.21.*smallest has 8"),
        ({"validation_size": -1}, r"validation_size=-1 must lie in 0\.\.21"),
        ({"train_size": 19}, r"train_size=19 must lie in 3\.\.18.*Leave it out to train on all 18"),
        ({"train_size": 2}, r"train_size=2 must lie in 3\.\.18: at least one image of each class"),
    ],
)
def test_sizes_out_of_range(settings, message, load):
    with pytest.raises(ValueError, match=message):
        load(**settings)


def test_no_validation_images_can_be_had(load):
    assert len(load(validation_size=0).validation) == 0


def test_a_split_moves_between_devices(load):
    moved = load().test.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert len(moved) == 6


# --- batches


def naive_augment(images, generator, padding):
    """One image at a time, with torch's own reflection and crops by slicing."""
    batch, _, height, width = images.shape
    top, left, flip = (
        torch.randint(high, (batch, 1), generator=generator).flatten().tolist()
        for high in (2 * padding + 1, 2 * padding + 1, 2)
    )
    result = []
    for n, image in enumerate(images):
        padded = torch.nn.functional.pad(image[None].double(), [padding] * 4, mode="reflect")[0]
        crop = padded[:, top[n] : top[n] + height, left[n] : left[n] + width]
        result.append((crop.flip(-1) if flip[n] else crop).to(images.dtype))
    return torch.stack(result)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_augment_agrees_with_one_image_at_a_time(dtype, padding):
    images = torch.randint(256, (200, 3, 5, 9)).to(dtype)
    seeded = [torch.Generator().manual_seed(7) for _ in range(2)]
    result = augment(images, seeded[0], padding)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert torch.equal(result, naive_augment(images, seeded[1], padding))


def test_augment_draws_every_crop_and_flip_per_image():
    images = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5).repeat(2000, 1, 1, 1)
    results = augment(images, torch.Generator().manual_seed(0), padding=1)
    assert len(results.flatten(1).unique(dim=0)) == 3 * 3 * 2


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_hides_one_square_around_each_pixel_as_often(side):
    """Every pixel of 5 x 6 is a centre; the square ends where the image does."""
    images = torch.full((6000, 3, 5, 6), 7, dtype=torch.uint8)
    results = cutout(images, side, torch.Generator().manual_seed(0))
    assert (images == 7).all()
    expected = {}
    for row, column in np.ndindex(5, 6):
        wanted = torch.full((3, 5, 6), 7, dtype=torch.uint8)
        first, left = row - side // 2, column - side // 2
        wanted[:, max(first, 0) : first + side, max(left, 0) : left + side] = 128
        expected[bytes(wanted.numpy())] = 0
    for image in results:
        expected[bytes(image.numpy())] += 1
    counts = np.array(list(expected.values()))
    assert len(counts) == 30
    assert abs(counts - 200).max() < 5 * 200**0.5  # five standard deviations of a count


def test_augment_leaves_its_input_alone():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    augment(images, torch.Generator().manual_seed(0)).zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("padding", [-1, 5])
def test_reflection_needs_padding_less_than_the_side(padding):
    with pytest.raises(ValueError, match=rf"padding={padding} must be .* here 5 x 9 pixels"):
        augment(torch.zeros(2, 3, 5, 9), torch.Generator(), padding)


def test_to_float_spans_the_unit_interval():
    pixels = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.flatten(), torch.tensor([0, 0.2, 1]))
