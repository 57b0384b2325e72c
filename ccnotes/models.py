"""Any network as features and linear head, ``head(features(x))``, and what is asked of it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnotes.checks import check_finite, logits_of
from ccnotes.networks import (  # where they were before they had a room of their own
    MID_GREY as MID_GREY,
    NETWORKS as NETWORKS,
    OWN,
    QUARTER as QUARTER,
    ConvNet as ConvNet,
    Network as Network,
    Normalize,
    PreActBlock as PreActBlock,
    PreActResNet as PreActResNet,
    mean_over_places as mean_over_places,
    network_called as network_called,
)
from ccnotes.types import Features, Images, Logits
from ccnotes.weights import load_weights as load_weights

ASKS, ASKED = 16, 4  # how often, and of how many images, a network is asked the same


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
    if type(model) in OWN or not features.isfinite().all():
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
    if type(model) in OWN:
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
