"""Networks with an explicit split into features and linear head: ``head(features(x))``.

Their input is raw pixels in [0, 1]. Mean and standard deviation of the channels belong to the
model, so that an attack sees the same pixels as the data have.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnotes.checks import check_finite, logits_of
from ccnotes.types import Features, Images, Logits, Maps
from ccnotes.weights import load_weights as load_weights  # where it was before it had a room

ASKS, ASKED = 16, 4  # how often, and of how many images, a network is asked the same
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
        change: Maps = self.conv2(F.relu(self.norm2(self.conv1(out))))
        return change + skip


class PreActResNet(nn.Module):
    """PreActResNet-18 for small images (He et al., 2016, arXiv:1603.05027).

    No pooling before the last layer, so a 32 x 32 image still has 4 x 4 places there. ``width``
    is the number of channels of the first stage, 64 in the original; there are ``8 * width``
    features (means over all places, >= 0) and a linear head.

    >>> PreActResNet(10, width=4).features(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        *,
        mean: Sequence[float] = MID_GREY,
        std: Sequence[float] = QUARTER,
    ):
        super().__init__()
        layers: list[nn.Module] = [
            Normalize(mean, std),
            nn.Conv2d(len(mean), width, 3, 1, 1, bias=False),
        ]
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            layers += [
                PreActBlock(inputs, outputs, stride=2 if stage else 1),
                PreActBlock(outputs, outputs, stride=1),
            ]
            inputs = outputs
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU())
        self.head = nn.Linear(inputs, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The last blocks of the first three stages and the last ReLU."""
        return [self.body[place] for place in (3, 5, 7, -1)]

    def features(self, x: Images) -> Features:
        return mean_over_places(self.body(x))

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.features(x))
        return logits


Network = ConvNet | PreActResNet
NETWORKS: dict[str, type[Network]] = {"convnet": ConvNet, "preactresnet": PreActResNet}


class Headed(nn.Module):
    """Any network whose logits come from a linear layer, as ``head(features(x))``.

    The head is the last ``nn.Linear`` that ``network`` has, or the one that is called ``head``.
    ``mean`` and ``std`` are what ``network`` wants its input normalised by, one number per
    channel, since the input here is raw pixels in [0, 1]; by default it is left as it is. Of an
    output with several parts the one called ``logits`` counts. Raises ValueError for a network
    without such a layer and, in :meth:`features`, for one whose logits are not features times the
    layer's weights plus its biases, but for rounding.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model = Headed(network, mean=(0.5,), std=(0.25,))
    >>> model.name, model.features(torch.rand(5, 1, 2, 2)).shape
    ('3', torch.Size([5, 3]))
    """

    def __init__(
        self,
        network: nn.Module,
        head: str | None = None,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        super().__init__()
        layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}
        if not layers or (head is not None and head not in layers):
            raise ValueError(
                f"{type(network).__name__} has no linear layer {head or 'at all'}, so its logits "
                f"cannot be split into features. Linear layers: {', '.join(layers) or 'none'}."
            )
        self.name = head or list(layers)[-1]
        self.normalize = Normalize(mean, std)
        self.network = network

    @property
    def head(self) -> nn.Linear:
        layer = self.network.get_submodule(self.name)
        assert isinstance(layer, nn.Linear)
        return layer

    def features(self, x: Images) -> Features:
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def look(layer: nn.Linear, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            given = args[0] if args else kwargs["input"]
            seen.append(
                (given.clone(), *product(layer, given))
            )  # as what follows may write into it

        with self.head.register_forward_hook(look, with_kwargs=True):
            logits = self(x)
        check_finite(logits, self.network)
        if len(seen) != 1 or not agree(*seen[0][1:], logits):
            times = {0: " (it is never called, unless from compiled code)", 1: ""}
            raise ValueError(
                f"the logits of {type(self.network).__name__} are not what its layer {self.name!r} "
                f"gives{times.get(len(seen), f' (it is called {len(seen)} times)')}: name the "
                f"layer that gives them by head=..., or cut off what follows it. A layer that "
                f"gives anything but features @ weight.T + bias has no such split."
            )
        return seen[0][0]

    def forward(self, x: Images) -> Logits:
        floats = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return logits_of(self.network(self.normalize(x).to(next(floats))))


@torch.no_grad()
def product(head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """The logits that the layer's weights and biases make of the features, and their terms' size.

    That is the sum of the absolute products, the largest of an image, in double precision.

    >>> head = nn.Linear(2, 1)
    >>> head.weight.data, head.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    >>> product(head, torch.tensor([[3.0, -1.0]]))
    (tensor([[1.5000]]), tensor([[5.]], dtype=torch.float64))
    """
    weight = head.weight.detach()
    if features.shape[-1] != weight.shape[1]:
        return features[:0].detach(), features.new_empty(0, 1).double()
    linear = F.linear(features.detach().to(weight.dtype), weight, head.bias)
    # On the CPU, as Apple GPUs have no double precision.
    size = F.linear(features.detach().cpu().double().abs(), weight.cpu().double().abs())
    return linear, size.amax(-1, keepdim=True)


def agree(linear: Tensor, size: Tensor, logits: Logits) -> bool:
    """Whether both are the same but for rounding; ``size`` is that of :func:`product`.

    What is allowed follows how an image's logits differ from each other. A number that they share
    decides nothing and must not hide a change, so it adds its own rounding alone.
    """
    if linear.shape != logits.shape:
        return False
    eps = max(torch.finfo(linear.dtype).eps, torch.finfo(logits.dtype).eps)
    a, b = linear.detach().cpu().double(), logits.detach().cpu().double()
    largest = torch.maximum(a.abs(), b.abs()).amax(1, keepdim=True)
    centred = (b - b.mean(1, keepdim=True)).abs().amax(1, keepdim=True)
    allowed = eps * (largest + 4 * centred + 2 * size)
    first = b.topk(min(2, b.shape[1]), dim=1).values
    sure = first[:, 0] - first[:, -1] > allowed[:, 0]
    same = a.argmax(1) == b.argmax(1)
    return bool(((a - b).abs() <= allowed).all() and same[sure].all())


def check_split(model: nn.Module, x: Images, features: Tensor) -> None:
    """ValueError unless the model's logits are its head of these features, each time it is asked.

    Of ccnotes' own networks they are; whether it is the head :class:`Headed` looks for itself.
    """
    if features.ndim != 2:
        raise ValueError(
            f"the features of {type(model).__name__} have the shape {tuple(features.shape)}, not "
            f"images x features: wrap the network, Headed(network)."
        )
    if type(model) in NETWORKS.values() or not features.isfinite().all():
        return
    assert callable(model.features)
    assert isinstance(model.head, nn.Linear)
    check_repeats(model, x, model.features)
    if type(model) is Headed:
        return
    if not agree(*product(model.head, features), logits_of(model(x))):
        raise ValueError(
            f"the logits of {type(model).__name__} are not head(features(x)), so its features are "
            f"not those that its head sees: wrap it, Headed(network)."
        )


@torch.no_grad()
def check_repeats(model: nn.Module, x: Images, ask: Callable[[Tensor], Tensor]) -> None:
    """ValueError unless ``ask(x)``, what the model makes of images, is the same in each call.

    And in other company.
    But for rounding; of ccnotes' own networks it is. A few images are asked for, and often, since
    some layers are random for a whole batch at once.
    """
    if type(model) in NETWORKS.values():
        return
    x = x[:ASKED]
    first = ask(x)
    largest = first.abs().max().item()
    for _ in range(ASKS - 1):
        off = (ask(x) - first).abs().max().item()
        if off > 32 * torch.finfo(first.dtype).eps * largest:
            raise ValueError(
                f"{type(model).__name__} is random in eval mode: asked again for the same images, "
                f"its numbers are off by {off:.2g}, where the largest is {largest:.2g}. Switch "
                f"off there what is random, as F.dropout(x, training=self.training) does, and "
                f"F.dropout(x) does not."
            )
    # Fewer images may be added up in another order.
    allowed = max(32 * torch.finfo(first.dtype).eps, 1e-3) * largest
    if len(x) > 2 and (off := (ask(x[:2]) - first[:2]).abs().max().item()) > allowed:
        raise ValueError(
            f"{type(model).__name__} answers for an image by what else is in its batch: asked for "
            f"fewer, its numbers are off by {off:.2g}, where the largest is {largest:.2g}. Let "
            f"BatchNorm use its running statistics in eval mode (track_running_stats=True), and "
            f"take no mean over a batch."
        )
