import numpy as np
import pytest
import torch

from ccnotes.data import augment, cutout


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
