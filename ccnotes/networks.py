"""Networks with an explicit split into features and linear head: ``head(features(x))``.

Their input is raw pixels in [0, 1]. Mean and standard deviation of the channels belong to the
model, so that an attack sees the same pixels as the data have.
"""

import ast
import math
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnotes.types import Features, Images, Logits, Maps

MID_GREY, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def mean_over_places(maps: Maps) -> Features:
    """The mean of each map.

    >>> mean_over_places(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))
    tensor([[2., 5.]])
    """
    # As mean((2, 3)), whose gradient has a layout that makes the ReLU before it eight times
    # slower on a CPU.
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Normalize(nn.Module):
    """``(x - mean) / std``, one number per channel, saved with the model.

    Both are those of pixels in [0, 1]. Raises ValueError for numbers that cannot be, and for
    images with another number of channels than numbers were given.

    >>> Normalize(mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    @torch.inference_mode(False)
    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise ValueError(
                f"mean={tuple(mean)} and std={tuple(std)} must have one number per channel."
            )
        if not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
            scale = max(*mean, *std) > 2
            raise ValueError(
                f"mean={tuple(mean)}, std={tuple(std)} are not those of pixels in [0, 1]: a mean "
                f"lies in 0..1, a standard deviation above 0 and up to 1."
                + " Did you mean those of 0..255, each divided by 255?"
                * scale
            )
        self.register_buffer("mean", torch.tensor([*map(float, mean)]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([*map(float, std)]).view(-1, 1, 1))

    def forward(self, x: Images) -> Images:
        if len(self.mean) not in (1, x.shape[1]):
            raise ValueError(
                f"images of {x.shape[1]} channels, where {len(self.mean)} are normalised: give "
                f"images of {len(self.mean)} channels, as x.expand(-1, 3, -1, -1) makes of grey "
                f"ones, or the mean and std of theirs."
            )
        return ((x - self.mean) / self.std).to(self.mean.dtype)


class ConvNet(nn.Module):
    """Three 3 x 3 convolutions with BatchNorm and ReLU, the first two with stride 2.

    ``4 * width`` features (means over all places, >= 0) and a linear head.

    >>> ConvNet(6, width=8).features(torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 32])
    """

    channels = 1  # the dimension of a stage's output that counts them

    def __init__(
        self,
        num_classes: int,
        width: int = 32,
        *,
        mean: Sequence[float] = MID_GREY,
        std: Sequence[float] = QUARTER,
    ):
        super().__init__()
        layers: list[nn.Module] = [Normalize(mean, std)]
        sizes = [len(mean), width, 2 * width, 4 * width]
        for inputs, outputs, stride in zip(sizes, sizes[1:], (2, 2, 1), strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The three ReLUs."""
        return [layer for layer in self.body if isinstance(layer, nn.ReLU)]

    @property
    def places(self) -> tuple[nn.Module, int]:
        """The last layer that has places, for Grad-CAM, and its dimension of channels."""
        return self.stages[-1], 1

    def features(self, x: Images) -> Features:
        return mean_over_places(self.body(x))

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.features(x))
        return logits


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, 3 x 3 convolution, twice, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.stride = stride
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Images) -> Maps:
        out = F.relu(self.norm1(x))
        # Strides in the picture, not in the convolution: oneDNN's gradient of a 1 x 1 convolution
        # with stride 2 writes past its memory below 16 channels (oneDNN issue 6035).
        places = out[:, :, :: self.stride, :: self.stride]
        skip = x if self.shortcut is None else self.shortcut(places)
        change: Maps = self.conv2(F.relu(normalised(self.conv1, self.norm2, out)))
        return change + skip


def normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Maps:
    """``norm(conv(x))``. Compiled code scales the weights in eval mode, not the maps, in less time.

    >>> conv, norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
    >>> normalised(conv, norm.eval(), torch.rand(4, 3, 5, 5)).shape
    torch.Size([4, 2, 5, 5])
    """
    found: Maps
    if norm.training or not torch.compiler.is_compiling():
        found = norm(conv(x))
        return found
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    found = F.conv2d(x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding)
    return found


class PreActResNet(nn.Module):
    """PreActResNet for small images (He et al., 2016, arXiv:1603.05027), by default of 18 layers.

    No pooling before the last layer, so a 32 x 32 image still has 4 x 4 places there. ``width``
    is the number of channels of the first stage, 64 in the original; each of the other stages
    halves the sides and has twice the channels. There are ``8 * width`` features (means over all
    places, >= 0) and a linear head. ``blocks`` has one number for each stage, ``stem`` is the
    number of channels before the first, ``width`` by default. With three stages and a stem of 16
    it is WideResNet (Zagoruyko and Komodakis, 2016, arXiv:1605.07146): ``(4, 4, 4)`` and width
    160 give WideResNet-28-10.

    >>> PreActResNet(10, width=4).features(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 32])
    """

    channels = 1  # the dimension of a stage's output that counts them

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        *,
        mean: Sequence[float] = MID_GREY,
        std: Sequence[float] = QUARTER,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: int | None = None,
    ):
        super().__init__()
        inputs = stem or width
        layers: list[nn.Module] = [
            Normalize(mean, std),
            nn.Conv2d(len(mean), inputs, 3, 1, 1, bias=False),
        ]
        self.ends = []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                layers.append(PreActBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
            self.ends.append(len(layers) - 1)
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU())
        self.head = nn.Linear(inputs, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The last blocks of all stages but the last, and the last ReLU."""
        return [self.body[place] for place in (*self.ends[:-1], -1)]

    @property
    def places(self) -> tuple[nn.Module, int]:
        """The last layer that has places, for Grad-CAM, and its dimension of channels."""
        return self.stages[-1], 1

    def features(self, x: Images) -> Features:
        return mean_over_places(self.body(x))

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.features(x))
        return logits


class FromTimm(nn.Module):
    """A network of timm, its last layer replaced by a linear head; untrained.

    ``name`` is timm's, and may be followed by arguments of its own, as in
    ``"vit_tiny_patch16_224,patch_size=4,depth=2"``. Those of networks that are made for one size
    of image are told ``image_size``. Raises ValueError for a name that timm has not, and where the
    network cannot be made, or run, for such images; ModuleNotFoundError without timm.
    """

    channels = -1  # the dimension of a stage's output that counts them

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        image_size: int = 32,
        mean: Sequence[float] = MID_GREY,
        std: Sequence[float] = QUARTER,
    ):
        super().__init__()
        trunk = of_timm(name, 0, image_size=image_size, channels=len(mean))
        self.body = nn.Sequential(Normalize(mean, std), trunk)
        self.image_size = image_size
        try:
            with torch.no_grad():
                found = trunk.eval()(torch.zeros(2, len(mean), image_size, image_size))
        except Exception as error:  # timm's networks raise nearly anything on images too small
            raise ValueError(
                f"timm:{name} cannot take images of {image_size} x {image_size} pixels "
                f"({error}): choose another network, or larger images by image_size."
            ) from error
        trunk.train()
        self.head = nn.Linear(found.shape[1], num_classes)

    @property
    def trunk(self) -> Any:
        """The network of timm."""
        return self.body[1]

    @property
    def stages(self) -> list[nn.Module]:
        """Of a vision transformer blocks after a quarter, half, three quarters; the whole trunk."""
        blocks = self.trunk.blocks if self.is_transformer else []
        ends = sorted({math.ceil(len(blocks) * k / 4) - 1 for k in (1, 2, 3)}) if blocks else []
        return [*(blocks[end] for end in ends), self.trunk]

    @property
    def is_transformer(self) -> bool:
        """Whether its blocks give tokens, images x tokens x channels."""
        return hasattr(self.trunk, "blocks") and hasattr(self.trunk, "num_prefix_tokens")

    @property
    def places(self) -> tuple[nn.Module, int | None]:
        """The last layer that has places, for Grad-CAM, and its dimension of channels.

        Of a transformer the last block's first norm: after it only the class token counts. Raises
        ValueError for networks of which timm does not say which layer has their last maps.
        """
        if self.is_transformer:
            return self.trunk.blocks[-1].norm1, -1
        try:
            return self.trunk.get_submodule(self.trunk.feature_info[-1]["module"]), None
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"timm does not say which layer of {type(self.trunk).__name__} has its last maps: "
                f"call ccnotes.attribution.grad_cam(model, layer, ...) with one of your choice."
            ) from error

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Of a transformer: tokens that stand for no place, and rows and columns of the others."""
        rows, columns = self.trunk.patch_embed.grid_size
        return self.trunk.num_prefix_tokens, rows, columns

    def features(self, x: Images) -> Features:
        found: Features = self.body(x)
        return found

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.features(x))
        return logits


def of_timm(name: str, num_classes: int, *, image_size: int = 32, channels: int = 3) -> nn.Module:
    """timm's own network of that name, see :class:`FromTimm`; of 0 classes without last layer."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is a network of timm, which is not installed: pip install 'ccnotes[timm]', "
            f"or pip install timm."
        ) from error
    plain, *options = name.split(",")
    if not timm.is_model(plain):
        near = get_close_matches(plain, timm.list_models())
        raise ValueError(
            f"timm {timm.__version__} has no network {plain!r}."
            + f" Did you mean {', '.join(near)}?" * bool(near)
        )
    given: dict[str, Any] = {"in_chans": channels} | dict(map(option, options))
    try:
        with_size = {"img_size": image_size} | given
        try:
            made: nn.Module = timm.create_model(plain, num_classes=num_classes, **with_size)
        except TypeError:  # it takes images of any size
            made = timm.create_model(plain, num_classes=num_classes, **given)
    except Exception as error:
        raise ValueError(f"timm:{name} cannot be made ({error}).") from error
    return made


def option(word: str) -> tuple[str, Any]:
    """An argument for timm. Raises ValueError for a word that is none.

    >>> option("patch_size=4"), option("global_pool=avg")
    (('patch_size', 4), ('global_pool', 'avg'))
    """
    name, equals, value = word.partition("=")
    if not (equals and name.strip().isidentifier()):
        raise ValueError(f"{word!r} is no argument of a network of timm: write name=value.")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value


Network = ConvNet | PreActResNet | FromTimm
OWN = (ConvNet, PreActResNet)  # whose head and features need no looking at
# By name; called with the number of classes and the width, of which a comment has the original's.
NETWORKS: dict[str, Callable[..., Network]] = {
    "convnet": ConvNet,
    "preactresnet": PreActResNet,  # -18: 64
    "preactresnet-34": partial(PreActResNet, blocks=(3, 4, 6, 3)),  # 64
    "wideresnet-28": partial(PreActResNet, blocks=(4, 4, 4), stem=16),  # 160 is WideResNet-28-10
    "wideresnet-34": partial(PreActResNet, blocks=(5, 5, 5), stem=16),  # 160 is WideResNet-34-10
}
TRANSFORMERS = {"vit-ti": "vit_tiny_patch16_224", "deit-ti": "deit_tiny_patch16_224"}  # 192


def check_name(name: str) -> None:
    """ValueError for a name by which no network is known.

    >>> check_name("resnet18")
    Traceback (most recent call last):
    ValueError: model='resnet18' is not one of 'convnet', 'preactresnet', 'preactresnet-34', \
'wideresnet-28', 'wideresnet-34', 'vit-ti', 'deit-ti', 'timm:NAME'.
    """
    known = [*NETWORKS, *TRANSFORMERS, "timm:NAME"]
    if name not in known[:-1] and not re.fullmatch("timm:.+", name):
        raise ValueError(f"model={name!r} is not one of {', '.join(map(repr, known))}.")


def network_called(
    name: str,
    num_classes: int,
    width: int,
    *,
    image_size: int = 32,
    mean: Sequence[float] = MID_GREY,
    std: Sequence[float] = QUARTER,
) -> Network:
    """A new network by the name that experiments have for it.

    One of :data:`NETWORKS`; ``"vit-ti"`` or ``"deit-ti"``, which are one network, made for images
    of 32 pixels by patches of 4 and, with width 192, three heads, as in the originals; or a name
    of timm as ``"timm:NAME"``, of which ``width`` changes nothing. Errors are as for
    :class:`FromTimm`.

    >>> network_called("wideresnet-28", 10, width=16).head
    Linear(in_features=64, out_features=10, bias=True)
    """
    check_name(name)
    if name in NETWORKS:
        return NETWORKS[name](num_classes, width, mean=mean, std=std)
    if name in TRANSFORMERS:
        heads = max(n for n in range(1, max(1, width // 64) + 1) if width % n == 0)
        name = f"{TRANSFORMERS[name]},patch_size=4,embed_dim={width},num_heads={heads}"
    plain = name.removeprefix("timm:")
    return FromTimm(plain, num_classes, image_size=image_size, mean=mean, std=std)
