"""Random changes of a batch: crops, flips, cutout."""

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from ccnotes.types import Pixels


def augment(
    images: Num[Tensor, "batch channels height width"],
    generator: torch.Generator,
    padding: int = 4,
) -> Num[Tensor, "batch channels height width"]:
    """A random crop after reflection by ``padding`` pixels, then a flip by a fair coin, per image.

    The numbers are drawn on the generator's device: give it the images' own to avoid a copy.

    >>> image = torch.arange(3).expand(2, 1, 3, 3)
    >>> augment(image, torch.Generator().manual_seed(0), padding=1)[:, 0, 0]
    tensor([[1, 2, 1],
            [1, 0, 1]])
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


def cutout(images: Pixels, side: int, generator: torch.Generator) -> Pixels:
    """A mid-grey square of ``side`` pixels around a random pixel of each image, cut at its edge.

    DeVries and Taylor (2017), arXiv:1708.04552.

    >>> images = torch.zeros(1, 1, 3, 5, dtype=torch.uint8)
    >>> cutout(images, 3, torch.Generator().manual_seed(0))[0, 0]
    tensor([[  0,   0,   0,   0,   0],
            [  0,   0,   0, 128, 128],
            [  0,   0,   0, 128, 128]], dtype=torch.uint8)
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
    """Indices beyond 0 and ``side - 1`` mirrored back, the edge itself not repeated.

    >>> reflect(torch.arange(-2, 6)[None], side=4)
    tensor([[2, 1, 0, 1, 2, 3, 2, 1]])
    """
    return (side - 1) - ((side - 1) - index.abs()).abs()
