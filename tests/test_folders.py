"""Which files of a folder count as images, and what their pixels are."""

import io
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from ccnotes.data import DataError, folders

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def pixels(tmp_path):
    """Writes an image, or the bytes of one, and gives what is read: height x width x 3."""

    def pixels(image, name="a.png", image_size=None, **settings):
        path = tmp_path / name
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, **settings)
        return np.asarray(folders.read_image(path, image_size))

    return pixels


@pytest.fixture
def part(tmp_path):
    """Makes the files that are named, each an image, under a folder; gives the folder."""

    def part(*names):
        for name in names:
            path = tmp_path / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(path, "png")
        return tmp_path / "train"

    return part


def listed(part):
    found = folders.list_images(part)
    return {name: [p.relative_to(part).as_posix() for p in files] for name, files in found.items()}


# --- pixels

SHADES = {0: 0, 1: 0, 128: 0, 129: 1, 16384: 64, 32767: 127, 32768: 128, 49152: 191, 65535: 255}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_images_of_16_bits_are_rounded_to_the_nearest_of_256_levels(name, pixels):
    """By hand: level / 65535 * 255; 128 / 257 is below one half, 129 / 257 above."""
    levels = np.array([list(SHADES)], np.uint16)
    by_hand = f"P5 {len(SHADES)} 1 65535\n".encode() + levels.astype(">u2").tobytes()
    found = pixels(by_hand if name == "a.pgm" else Image.fromarray(levels), name)
    assert found[0, :, 0].tolist() == list(SHADES.values())
    assert (found == found[..., :1]).all()


def test_every_level_of_16_bits_is_rounded_as_its_fraction(pixels):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(levels / 65535 * 255)  # no level lies half-way: 257 is odd
    assert (pixels(Image.fromarray(levels))[..., 0] == expected).all()


def test_grey_images_of_16_bits_in_the_other_byte_order(pixels):
    levels = np.array([[16384, 49152]], np.uint16)
    image = Image.frombytes("I;16B", (2, 1), levels.astype(">u2").tobytes())
    assert pixels(image, "a.tif")[0, :, 0].tolist() == [64, 191]


def test_grey_ppm_of_12_bits_says_its_range(pixels):
    levels = np.array([[0, 1024, 4095]], ">u2")
    assert pixels(b"P5 3 1 4095\n" + levels.tobytes(), "a.pgm")[0, :, 0].tolist() == [0, 64, 255]


def tiff(levels, bits, photometric=1, sample_format=1):
    """A grey TIFF of one strip, by hand: PIL writes fewer kinds than it reads."""
    data, (height, width) = levels.tobytes(), levels.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,  # not compressed
        262: photometric,
        273: 8 + 2 + 12 * 10 + 4,  # where the pixels begin
        277: 1,  # channels
        278: height,
        279: len(data),
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHIHxx", tag, 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_the_hand_made_tiff_is_one(pixels):
    levels = np.array([[16384, 49152]], "<u2")
    assert pixels(tiff(levels, 16), "a.tif")[0, :, 0].tolist() == [64, 191]
    assert pixels(tiff(levels.astype(np.uint8) + 7, 8), "a.tif")[0, :, 0].tolist() == [7, 7]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[0.25, 0.75]], np.float32)),
        Image.fromarray(np.array([[16384, 49152]], np.int32)),
        tiff(np.array([[16384, 49152]], "<u4"), 32),
        tiff(np.array([[-5, 5]], "<i2"), 16, sample_format=2),
        tiff(np.array([[-5, 5]], "i1"), 8, sample_format=2),
        tiff(np.array([[1, 2]], "<u2"), 12),
        tiff(np.array([[16384, 49152]], "<u2"), 16, photometric=0),
    ],
    ids=["float", "int32", "uint32", "int16", "int8", "12 bits", "white is zero"],
)
def test_tiff_whose_numbers_have_no_known_range_is_refused(image, pixels):
    with pytest.raises(DataError, match=r"a\.tif cannot be read .*save it with 8 bits a channel"):
        pixels(image, "a.tif")


def test_floating_point_ppm_is_refused(pixels):
    levels = np.array([[0.25, 0.75]], "<f4")
    with pytest.raises(DataError, match=r"not known, mode F; save it with 8 bits"):
        pixels(b"Pf 2 1 -1.0\n" + levels.tobytes(), "a.ppm")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_images_of_other_modes_are_the_same_picture(mode, pixels):
    """White and black are exact in each."""
    image = Image.new("RGB", (16, 8), "white")
    image.paste((0, 0, 0), (8, 0, 16, 8))
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    assert (pixels(image.convert(mode), name) == np.asarray(image)).all()


def test_a_palette_gives_its_colours(pixels):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert pixels(image).tolist() == [[[*RED], [*BLUE]]]


def half_hidden(mode):
    """Red, but where it cannot be seen, green."""
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 255, 0, 0))
    return image.convert(mode)


def keyed(mode, colours, key):
    """An image one of whose colours stands for none."""
    image = Image.new(mode, (2, 1), colours[0])
    image.putpixel((1, 0), colours[1])
    if mode == "P":
        image.putpalette([*RED, *BLUE])
    found = io.BytesIO()
    image.save(found, "png", transparency=key)
    return found.getvalue()


def png(head, content, key=b""):
    """By hand: PIL writes no PNG with 16 bits a channel, and none that is wrong."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head, key = chunk(b"IHDR", struct.pack(">IIBBBBB", *head)), key and chunk(b"tRNS", key)
    pixels = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + head + key + pixels + chunk(b"IEND", b"")


def of_16_bits(key=b""):
    """Two pixels of three channels, after the byte that says that rows are not filtered."""
    levels = struct.pack(">HHHHHH", 16384, 49152, 65535, 700, 700, 700)
    return png((2, 1, 16, 2, 0, 0, 0), b"\0" + levels, key)


def test_of_colours_of_16_bits_the_upper_byte_counts(pixels):
    """As PIL reads them: less than one of 256 levels from the fraction."""
    assert pixels(of_16_bits()).tolist() == [[[64, 192, 255], [2, 2, 2]]]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (half_hidden("RGBA"), "a.png"),
        (half_hidden("LA"), "a.png"),
        (half_hidden("RGBA"), "a.webp"),
        (half_hidden("RGBA"), "a.tif"),
        (keyed("RGB", (RED, BLUE), BLUE), "a.png"),
        (keyed("L", (7, 9), 9), "a.png"),
        (keyed("P", (0, 1), 1), "a.png"),
        (keyed("P", (0, 1), b"\xff\x80"), "a.png"),
        (keyed("I;16", (700, 900), 900), "a.png"),
        (of_16_bits(struct.pack(">HHH", 700, 700, 700)), "a.png"),
    ],
    ids="RGBA LA WebP TIFF colour-key grey-key palette half 16-bits-grey 16-bits".split(),
)
def test_transparent_images_are_refused(image, name, pixels):
    with pytest.raises(DataError, match=r"has transparent pixels: put it on a background"):
        pixels(image, name, lossless=True) if name == "a.webp" else pixels(image, name)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_channel_changes_nothing(mode, pixels):
    image = Image.new("L", (2, 1), 77).convert(mode)
    assert pixels(image).tolist() == [[[77] * 3] * 2]


def test_a_colour_key_that_no_pixel_has_changes_nothing(pixels):
    assert pixels(keyed("RGB", (RED, BLUE), (0, 255, 0))).tolist() == [[[*RED], [*BLUE]]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright_as_their_exif_data_say(orientation, name, pixels):
    """By the definition of the EXIF tag: where row 0 and column 0 of what is stored are seen."""
    seen = np.zeros((32, 48, 3), np.uint8)
    seen[:16, :16] = RED  # top left
    seen[16:, 32:] = BLUE  # bottom right
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: seen[:, ::-1].transpose(1, 0, 2),
        7: seen[::-1, ::-1].transpose(1, 0, 2),
        8: seen[::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"exif": exif, "quality": 100} | ({"lossless": True} if name == "a.webp" else {})
    found = pixels(Image.fromarray(np.ascontiguousarray(stored)), name, **settings)
    assert found.shape == seen.shape
    assert abs(found.astype(int) - seen)[4:12, 4:12].max() < 8  # JPEG rounds, and smears at edges
    assert abs(found.astype(int) - seen)[20:28, 36:44].max() < 8


def test_a_size_is_that_of_the_upright_photo(part):
    where = part("a/0.png", "a/1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 8)).save(where / "a" / "0.png", exif=exif)
    Image.new("RGB", (8, 6)).save(where / "a" / "1.png")
    files = [where / "a" / "0.png", where / "a" / "1.png"]
    assert folders.decode(files, None).shape == (2, 3, 6, 8)


def jpeg(side, **settings):
    """A picture without any plain place, so that every part of it takes bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    found = io.BytesIO()
    Image.fromarray(noise).save(found, "jpeg", **settings)
    return found.getvalue()


RESTARTS = {"restart_marker_blocks": 3}
KINDS = ({}, {"progressive": True}, RESTARTS, {"progressive": True} | RESTARTS, {"quality": 30})
END = b"\xff\xd9"


@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize("side", [8, 67])
def test_a_whole_jpeg_has_the_pixels_that_pil_gives(settings, side, pixels):
    whole = jpeg(side, **settings)
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    assert (pixels(whole, "a.jpg") == expected).all()
    assert (pixels(whole + b"what a camera adds" + whole, "a.jpg") == expected).all()


@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_jpeg_that_was_cut_off_is_refused_even_if_it_was_closed(settings, share, pixels):
    whole = jpeg(128, **settings)
    for end in (b"", END):
        with pytest.raises(DataError, match=r"a\.jpg cannot be read as an image"):
            pixels(whole[: int(share * len(whole))] + end, "a.jpg")


@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_a_jpeg_whose_second_half_is_garbage_is_refused(settings, seed, pixels):
    """PIL alone reads two of these, and more with an end marker behind."""
    whole = jpeg(128, **settings)
    half = len(whole) // 2
    garbage = np.random.default_rng(seed).bytes(len(whole) - half)
    for end in (b"", END):
        with pytest.raises(DataError, match=r"a\.jpg cannot be read as an image"):
            pixels(whole[:half] + garbage + end, "a.jpg")


@pytest.mark.parametrize("side", [16, 64, 256])
def test_a_jpeg_that_ends_in_zeros_is_refused(side, pixels):
    """As a download that kept room for what never came; zeros are coded picture, too."""
    whole = jpeg(side)
    half = len(whole) // 2
    with pytest.raises(DataError, match=r"a\.jpg cannot be read as an image"):
        pixels(whole[:half] + bytes(len(whole) - half), "a.jpg")


def test_marks_that_are_out_of_turn_in_a_jpeg_are_named(pixels):
    """By hand: the first restart mark is called D0, so that D1 in its place breaks the row."""
    whole = jpeg(64, restart_marker_blocks=1)
    for wrong in (b"\xff\xd1", b"\xff\x37"):
        with pytest.raises(DataError, match=r"a\.jpg cannot .*it is damaged, at byte"):
            pixels(whole.replace(b"\xff\xd0", wrong, 1), "a.jpg")


def dark(name, highest):
    """A file of 16 bits a channel by hand whose highest level is that."""
    levels = np.array([[0, 1, highest]], np.uint16)
    colours = np.stack([levels] * 3, -1)
    row = b"\0" + (levels if name == "grey.png" else colours).astype(">u2").tobytes()
    return {
        "grey.png": png((3, 1, 16, 0, 0, 0, 0), row),
        "colour.png": png((3, 1, 16, 2, 0, 0, 0), row),
        "grey.tif": tiff(levels.astype("<u2"), 16),
        "grey.pgm": b"P5 3 1 65535\n" + levels.astype(">u2").tobytes(),
        "colour.ppm": b"P6 3 1 65535\n" + colours.astype(">u2").tobytes(),
    }[name]


@pytest.mark.parametrize("name", ["grey.png", "colour.png", "grey.tif", "grey.pgm", "colour.ppm"])
def test_few_bits_in_files_of_16_are_warned_of(name, tmp_path):
    """12 bits end at 4095 of 65535, which is 16 of 255."""
    files = [tmp_path / f"{n}-{name}" for n in range(3)]
    for file, highest in zip(files, (65535, 4095, 1023), strict=True):
        file.write_bytes(dark(name, highest))
    with pytest.warns(UserWarning, match="^2 of the images have 16 bits .* 12 bits") as found:
        assert folders.decode(files, 2).shape == (3, 3, 2, 2)
    assert all(str(file) in str(found[0].message) for file in files[1:])


def test_no_other_images_are_called_dark(tmp_path, recwarn):
    """Black ones of 16 bits; ones of 8 bits, whatever they show; and 16 in a size says nothing."""
    files = [tmp_path / "8.png", tmp_path / "16.png"]
    Image.new("L", (16, 16), 3).save(files[0])
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(files[1])
    folders.decode(files, None)
    assert not recwarn.list


# --- files that are none, or too much


def test_nothing_is_handed_to_another_program(pixels, monkeypatch):
    """PIL has Ghostscript run what an EPS file says, whatever the file's name."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("was run"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="cannot be read as an image"):
        pixels(eps)


def test_several_pictures_of_a_phone_in_one_file_are_the_first(pixels):
    image, other = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    found = pixels(image, "a.jpg", format="MPO", save_all=True, append_images=[other])
    assert found[..., 0].min() > 250


def claims(width, height):
    """A PNG of hardly any bytes that says it is as large as that."""
    return png((width, height, 8, 2, 0, 0, 0), b"")


@pytest.mark.parametrize("image_size", [None, 8])
@pytest.mark.parametrize("size", [(20_000, 20_000), (20_000, 4_001), (20_000, 20)], ids=str)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_tiny_file_that_claims_to_be_huge_is_named(size, image_size, tmp_path):
    (tmp_path / "a.png").write_bytes(claims(*size))
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        folders.decode([tmp_path / "a.png"] * 30, image_size)


def test_more_pixels_than_are_decoded_at_once_are_too_many(pixels):
    with pytest.raises(DataError, match=r"\(20000 x 4001 pixels are too many; shrink it\)"):
        pixels(claims(20_000, 4_001))


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (
            100_000,
            r"30 images of 100,000 x 100,000 pixels take 1,800\.0 GB .* 8\.0\. .*by image_size=N",
        ),
        (None, r"30 images of 9,000 x 5,000 pixels take 8\.1 GB"),
    ],
    ids=["asked for", "as they are"],
)
def test_more_than_the_machine_s_memory_is_refused_before_it_is_taken(
    image_size, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(folders, "main_memory", lambda: 8e9)
    monkeypatch.setattr(folders.np, "empty", lambda *_: pytest.fail("asked for the memory"))
    Image.new("1", (9000, 5000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        folders.decode([tmp_path / "a.png"] * 30, image_size)


def test_this_machine_has_some_memory():
    assert folders.main_memory() > 1e8


def test_a_pipe_and_a_link_to_nowhere_are_named_instead_of_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "sha256_of", lambda path: pytest.fail("would wait for ever"))
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with names")
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "c.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError, match=rf"{name} is no file, or a link to none"):
            folders.digest(tmp_path / name)


# --- which files, which classes


def test_hidden_folders_and_files_are_passed_over_at_every_depth(part):
    where = part(
        *("cat/0.png", "cat/more/deep/1.png", "dog/0.png"),
        *("cat/.ipynb_checkpoints/0.png", "cat/__MACOSX/cat/0.png", "cat/more/.git/x/2.png"),
        *("dog/@eaDir/0.png", "dog/._0.png", "dog/#recycle/0.png"),
        *(".ipynb_checkpoints/0.png", "__MACOSX/cat/0.png", "@eaDir/0.png", "lost+found/0.png"),
    )
    assert listed(where) == {"cat": ["cat/0.png", "cat/more/deep/1.png"], "dog": ["dog/0.png"]}


def test_a_folder_called_like_an_image_is_a_folder(part):
    where = part("cat/0.png/1.png", "dog/0.png")
    assert listed(where)["cat"] == ["cat/0.png/1.png"]


def test_classes_are_in_alphabetical_order_as_torchvision_has_them(part):
    where = part(*(f"{n}/0.png" for n in ("b", 2, "ä", 1, "B", 10)))
    assert list(listed(where)) == ["1", "10", "2", "B", "b", "ä"]


def test_a_class_folder_may_be_a_link(part, tmp_path):
    where = part("cat/0.png", "dog/0.png")
    (where / "emu").symlink_to(where / "dog")
    assert listed(where)["emu"] == ["emu/0.png"]


def test_links_to_images_and_to_folders_of_images_count(part, tmp_path):
    where = part("cat/0.png", "dog/0.png", "../elsewhere/more/1.png", "../elsewhere/2.png")
    (where / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (where / "cat" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    expected = ["cat/0.png", "cat/3.png", "cat/linked/2.png", "cat/linked/more/1.png"]
    assert listed(where)["cat"] == expected


def test_links_in_a_circle_give_each_image_once(part):
    where = part("cat/0.png", "cat/b/1.png", "dog/0.png")
    (where / "cat" / "b" / "round").symlink_to(where / "cat")
    (where / "cat" / "a").symlink_to(where / "cat" / "b")  # read first, were the order by name
    assert listed(where)["cat"] == ["cat/0.png", "cat/b/1.png"]


def test_a_link_to_a_folder_of_all_classes_is_refused(part):
    where = part("cat/0.png", "dog/0.png")
    (where / "cat" / "up").symlink_to(where)
    with pytest.raises(DataError, match=r"cat.up is a link to a folder that it lies in itself"):
        folders.list_images(where)


@pytest.mark.parametrize("name", ["emu", "cat/more", "cat/1.png"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_links_to_nothing_are_not_passed_over(name, target, part):
    where = part("cat/0.png", "dog/0.png")
    link = where / name
    link.symlink_to(link if target == "itself" else where / "nowhere")
    with pytest.raises(DataError, match=f"{link} is a link to nothing that is there"):
        folders.list_images(where)


OTHER_NAMES = {
    "JFIF": "jpeg",
    "jpe": "jpeg",
    "gif": "gif",
    "pbm": "ppm",
    "pnm": "ppm",
    "apng": "png",
}


@pytest.mark.parametrize(("ending", "kind"), OTHER_NAMES.items())
def test_other_names_for_images_count(ending, kind, part, pixels):
    name = f"a.{ending}"
    image = Image.new("L", (2, 2), 255)
    found = io.BytesIO()
    image.convert("1" if ending == "pbm" else "L").save(found, kind)
    assert (pixels(found.getvalue(), name) == 255).all()
    assert listed(part(f"cat/{name}", "dog/0.png"))["cat"] == [f"cat/{name}"]


def test_of_a_gif_with_several_pictures_the_first_counts(pixels):
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    assert (pixels(red, "a.gif", save_all=True, append_images=[blue]) == RED).all()


def test_files_that_do_not_count_are_named(part, recwarn):
    where = part("cat/0.png", "cat/more/1.heic", "dog/0.png", "dog/notes", "loose.png", "list.txt")
    with pytest.warns(
        UserWarning, match=r"in .*train: cat/more/1.heic, dog/notes, loose.png\. .*convert"
    ) as found:
        assert listed(where) == {"cat": ["cat/0.png"], "dog": ["dog/0.png"]}
    assert found[0].filename == __file__


def test_a_class_of_files_that_do_not_count_is_an_error_that_names_them(part):
    where = part("cat/0.png", "dog/0.heic")
    with pytest.raises(DataError, match=r"dog has no images .*Passed over in .*: dog/0.heic\."):
        folders.list_images(where)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store"])
def test_what_systems_leave_in_folders_is_not_named(name, part, recwarn):
    assert listed(part("cat/0.png", f"cat/{name}", "dog/0.png"))["cat"] == ["cat/0.png"]
    assert not recwarn.list


def test_a_folder_that_cannot_be_read_is_not_passed_over(part, monkeypatch):
    where = part("cat/0.png", "cat/more/1.png", "dog/0.png")
    scandir = os.scandir

    def forbidden(path):
        if os.fspath(path).endswith("more"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match="more"):
        folders.list_images(where)


COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_accents_composed_or_apart_are_the_same_class(part):
    assert list(listed(part(f"{APART}/0.png", "dog/0.png"))) == [COMPOSED, "dog"]


def test_two_folders_of_one_name_are_not_merged_without_a_word(part):
    where = part(f"{COMPOSED}/0.png", f"{APART}/1.png", "dog/0.png")
    if len(list(where.iterdir())) < 3:
        pytest.skip("this file system composes accents by itself")
    with pytest.raises(DataError, match=f"two class folders called {COMPOSED}, .*composed"):
        folders.list_images(where)


@pytest.mark.parametrize(
    "name",
    [
        "cat\x1b[31m",
        "cat\ndog",
        "cat\t",
        "cat\x7f",
        "cat\x9b",
        "cat\u202etac",
        "\udcff",
        "\ufeffcat",
    ],
    ids=ascii,
)
def test_class_names_that_cannot_be_shown_are_refused_without_showing_them(name, part):
    where = part("cat/0.png", "dog/0.png")
    try:
        (where / name).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    with pytest.raises(DataError, match=r"has a character in its name .*Rename it") as caught:
        folders.list_images(where)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["$x_1$", "<b>", "a&b", "猫", "گربه\u200cها", "guinea pig"])
def test_other_class_names_are_kept_as_they_are(name, part):
    assert set(listed(part(f"{name}/0.png", "dog/0.png"))) == {name, "dog"}


def test_pixels_are_channels_first(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = folders.decode([tmp_path / "a.png"] * 2, None)
    assert found.is_contiguous()
    assert torch.equal(found[1], torch.from_numpy(image).permute(2, 0, 1))
