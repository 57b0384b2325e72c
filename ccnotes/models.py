"""Networks with an explicit split into features and linear head: ``head(features(x))``.

Their input is raw pixels in [0, 1]. Mean and standard deviation of the channels belong to the
model, so that an attack sees the same pixels as the data have.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ccnotes.types import Features, Images, Logits, Maps

MID_GREY, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def mean_over_places(maps: Maps) -> Features:
    # As mean((2, 3)), whose gradient has a layout that makes the ReLU before it eight times
    # slower on a CPU.
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Normalize(nn.Module):
    """``(x - mean) / std``, one number per channel, saved with the model."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Images) -> Images:
        return (x - self.mean) / self.std


class ConvNet(nn.Module):
    """Three 3 x 3 convolutions with BatchNorm and ReLU, the first two with stride 2.

    ``4 * width`` features (means over all places, >= 0) and a linear head.
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
        return self.head(self.features(x))


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
        return self.conv2(F.relu(self.norm2(self.conv1(out)))) + skip


class PreActResNet(nn.Module):
    """PreActResNet-18 for small images (He et al., 2016, arXiv:1603.05027).

    No pooling before the last layer, so a 32 x 32 image still has 4 x 4 places there. ``width``
    is the number of channels of the first stage, 64 in the original; there are ``8 * width``
    features (means over all places, >= 0) and a linear head.
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
        return self.head(self.features(x))


Network = ConvNet | PreActResNet
NETWORKS: dict[str, type[Network]] = {"convnet": ConvNet, "preactresnet": PreActResNet}


class Headed(nn.Module):
    """Any network whose logits come from a linear layer, as ``head(features(x))``.

    The head is the last ``nn.Linear`` that ``network`` has, or the one that is called ``head``.
    ``mean`` and ``std`` are what ``network`` wants its input normalised by, one number per
    channel, since the input here is raw pixels in [0, 1]; by default it is left as it is. Raises
    ValueError for a network without such a layer and, once it runs, for one that goes on after it.
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
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.head.register_forward_hook(lambda m, given, out: seen.append((given[0], out)))
        with hook:
            logits = self(x)
        if len(seen) != 1 or not torch.equal(seen[0][1], logits):
            raise ValueError(
                f"the logits of {type(self.network).__name__} are not what its layer {self.name!r} "
                f"gives: name the layer that gives them by head=..., or cut off what follows it."
            )
        return seen[0][0]

    def forward(self, x: Images) -> Logits:
        return self.network(self.normalize(x))


def load_weights(network: nn.Module, path: Path | str) -> nn.Module:
    """A copy of ``network`` with the weights of a checkpoint, in eval mode.

    That is a .safetensors file or one of ``torch.save``, which is read without executing any
    code. Weights may lie under ``state_dict``, ``model_state_dict``, ``model`` or ``net``, and all
    their names may begin with what a wrapper puts there, as ``DataParallel`` puts ``module.``.
    Raises ValueError for weights that do not fit, and names what does not.
    """
    path = Path(path)
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as weights ({error}). What can: a file that "
            f"torch.save(network.state_dict(), path) wrote, or a .safetensors file."
        ) from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds no state dict, that is, tensors by name.")
    model = deepcopy(network)
    first = next(iter(model.state_dict()), "")
    wrappers = [name.removesuffix(first) for name in found if name.endswith(first)]
    prefix = min(wrappers, key=len, default="")
    try:
        model.load_state_dict({name.removeprefix(prefix): v for name, v in found.items()})
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit: {error} Is it of this architecture, with this number of classes?"
        ) from error
    return model.eval()
