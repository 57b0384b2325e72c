"""Networks that a reader attacks in the browser: a display object for the last line of a cell."""

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ccnotes.attacks import pgd
from ccnotes.checks import check_bytes, checked_labels, few
from ccnotes.data import to_float
from ccnotes.frames import MOST, STEPS, Frames, attack_of, jpeg
from ccnotes.modes import evaluating
from ccnotes.networks import ConvNet
from ccnotes.photographs import credits
from ccnotes.tables import visible

LARGEST = 30  # 255ths, at the slider's right end
STOP = 0.5  # 255ths from one stop of the slider to the next; of photographs 1
SMALL = 64  # pixels each way, up to which each is to be seen as a square
TIMES = 8  # as strong a change is shown
DIGITS = np.frombuffer((ascii_uppercase + ascii_lowercase + digits + "+/").encode(), np.uint8)
KEY = "data-lm-suppress-shortcuts"  # on the control itself, else JupyterLab takes its arrow keys


class State(NamedTuple):
    """An image as attacked on the first network, and what each network makes of its own attack."""

    x: Float[Tensor, "1 3 size size"]
    attacked: Float[Tensor, "1 3 size size"]
    p: Sequence[Float[Tensor, " classes"]]
    label: int  # a place in ``classes``
    classes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class LiveAttack:
    """A slider for the radius of an attack, on images and networks of the reader's choice.

    The page itself computes logits, gradients and attacks, of an l-inf ball by ten steps of PGD
    from the image, without a server or a kernel. It starts with the first image and network at
    radius 0. ``notes`` are lines to stand under the images, one for each. Where a network is wrong,
    a line says at which stop of the slider it is so first. On paper and without scripts the first
    image is shown as attacked at ``eps``, in 255ths of the pixel range. ``photographs`` come before
    the images; the page leafs through what they were beforehand, on larger networks of the same
    names. With ``over="steps"`` the slider is over the steps at radius ``eps``, below a curve of
    the true class's probability. Raises ValueError for networks other than ConvNets, and for
    images, labels, classes, notes and photographs that do not fit.

    >>> from ccnotes.parts import parts
    >>> drawn = parts(6)
    >>> few = {"images": drawn.images, "labels": drawn.labels, "classes": drawn.classes}
    >>> LiveAttack(networks={"standard": ConvNet(6, width=2)}, caption="Drag.", **few).eps
    4
    """

    networks: Mapping[str, ConvNet]
    images: UInt8[Tensor, "images channels size size"]
    labels: Int[Tensor, " images"]
    classes: Sequence[str]
    caption: str
    eps: float = 4
    notes: Sequence[str] = ()
    photographs: Sequence[Frames] = ()
    over: Literal["eps", "steps"] = "eps"

    def __post_init__(self) -> None:
        check_bytes(self.images, self.labels)
        checked_labels(self.labels, len(self.classes))
        shape = self.images.shape[1:]
        if not self.networks or shape[0] != 3 or shape[1] != shape[2]:
            raise ValueError(
                f"{len(self.networks)} networks and images of shape {tuple(self.images.shape)}: "
                f"give at least one network, and images that are square and in colour."
            )
        if len(self.notes) not in (0, len(self.images)):
            raise ValueError(
                f"{len(self.notes)} notes for {len(self.images)} images: give one each, or none."
            )
        if not 0 <= self.eps <= LARGEST:
            raise ValueError(f"eps={self.eps!r} is in 255ths, from 0 to {LARGEST}.")
        if self.photographs and (self.over == "steps" or self.eps not in range(MOST + 1)):
            raise ValueError(
                f"eps={self.eps!r} over {self.over}: photographs were attacked beforehand, over "
                f"whole radii up to {MOST}. Ask for these, or leave photographs out."
            )
        if any(len(self.networks) != len(found.p) for found in self.photographs):
            raise ValueError(
                f"{len(self.networks)} networks, and photographs attacked on another number: give "
                f"as many."
            )
        for name, model in self.networks.items():
            if not isinstance(model, ConvNet):
                raise ValueError(
                    f"{name!r} is a {type(model).__name__}, which the page's script cannot "
                    f"compute: give a ccnotes.models.ConvNet."
                )
            if (outputs := model.head.out_features) != len(self.classes):
                raise ValueError(
                    f"{name!r} has {outputs} logits for {len(self.classes)} classes "
                    f"({few(self.classes)}): give it their images."
                )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = self.markup()
        if not os.environ.get("CCNOTES_BOOK"):  # there, book/_ext links one copy for all pages
            home = Path(__file__).parent
            page += f"<style>{(home / 'live.css').read_text()}</style>"
            page += f"<script>{(home / 'live.js').read_text()}</script>"
        return {"text/html": page, "text/plain": self.told[0]}

    def data(self) -> str:
        """What the script needs, as JSON that stands inside a page's script."""
        seen = [
            {
                "picture": jpeg(of.file),
                "label": of.label,
                "names": of.classes,
                "frames": [
                    {"signs": signs, "p": p} for signs, p in zip(of.signs, of.p, strict=True)
                ],
            }
            for of in self.photographs
        ]
        found = {
            "networks": [folded(model) for model in self.networks.values()],
            "classes": [visible(name) for name in self.classes],
            "size": self.images.shape[-1],
            "pixels": in_base64(self.images.permute(0, 2, 3, 1)),
            "labels": self.labels.tolist(),
            "notes": self.noted(),
            "photographs": seen,
            "most": MOST,
            "steps": STEPS,
            "eps": self.eps,
            "largest": LARGEST,
            "stop": STOP,
            "times": TIMES,
        }
        return json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")

    def noted(self) -> list[str]:
        """A line for each photograph and image; for none of them where images have no notes."""
        if not self.notes:
            return []
        whose = {c.file: f"Photograph: {c.author}, {c.licence}" for c in credits()}
        return [visible(n) for n in [*(whose[of.file] for of in self.photographs), *self.notes]]

    def first(self, eps: float) -> State:
        """The first picture, attacked."""
        if self.photographs:
            seen, at = self.photographs[0], int(eps)
            p = [torch.tensor(found[at]) for found in seen.p]
            return State(seen.x(), seen.attacked(0, at), p, seen.label, seen.classes)
        x, y, attack = to_float(self.images[:1]), self.labels[:1], attack_of(eps)
        attacked = [pgd(model, x, y, attack) for model in self.networks.values()]
        found = []
        for model, adv in zip(self.networks.values(), attacked, strict=True):
            with evaluating(model), torch.no_grad():
                found.append(model(adv).softmax(1)[0])
        return State(x, attacked[0], found, int(y), self.classes)

    @cached_property
    def told(self) -> tuple[str, State]:
        """In a sentence what the networks say of the first picture, attacked, and that state."""
        state = self.first(self.eps)
        says = [
            f"the {visible(name)} network says {answer(p, state.classes)}"
            for name, p in zip(self.networks, state.p, strict=True)
        ]
        true = visible(state.classes[state.label])
        return (
            f"An image of {true}, each pixel changed by at most {self.eps:g}/255: "
            f"{'; '.join(says)}.",
            state,
        )

    def markup(self) -> str:
        """The figure at radius 0, and the still one, which paper and browsers without scripts get.

        The script takes the first over as it stands, so that nothing on the page moves.
        """
        x, _, (p, *_), true, classes = self.first(0)
        told, then = self.told
        still = torch.cat([x, 0.5 + TIMES * (then.attacked - x), then.attacked], dim=3)
        names = [html.escape(visible(name)) for name in classes]
        pictures = {
            "image": (x, f"An image of {names[true]}."),
            f"change × {TIMES}": (torch.full_like(x[..., :20, :20], 0.5), "No change yet."),
            "attacked": (x, "The image, not changed yet."),
        }
        shown = "".join(
            f"<div{none}>{picture(image, alt)}<span aria-hidden='true'>{name}</span></div>"
            for none, (name, (image, alt)) in zip(
                ("", " data-none", ""), pictures.items(), strict=True
            )
        )
        first = "".join(html.escape(note) for note in self.noted()[:1])
        note = f'<p class="live-note">{first}</p>' if first else ""
        said = int(p.argmax())
        rows = "".join(
            bar(name, value, "live-true " * (y == true) + "live-said" * (y == said))
            for y, (name, value) in enumerate(zip(names, p.tolist(), strict=True))
        )
        sides = [x.shape[-1]] * len(self.photographs) + [self.images.shape[-1]] * len(self.images)
        called = [of.classes[of.label] for of in self.photographs]
        called += [self.classes[y] for y in self.labels.tolist()]
        images = [
            radio("image", i, canvas(side), f"{html.escape(visible(name))}, image {i + 1}")
            for i, (side, name) in enumerate(zip(sides, called, strict=True))
        ]
        group = 'role="radiogroup" aria-label='
        networks = [
            radio("network", i, f"<span>{html.escape(visible(name))}</span>")
            for i, name in enumerate(self.networks)
        ]
        return f"""<live-attack><figure>
<form autocomplete="off" data-over="{self.over}"><fieldset disabled>
<div><div class="live-pictures">{shown}</div>{note}</div>
<div class="live-answer"><p class="live-verdict" data-right="{str(said == true).lower()}">\
{html.escape(answer(p, classes))}</p>
<ol class="live-bars" aria-label="Probability of each class">{rows}</ol></div>
{self.slider()}
<p class="live-fooled"></p><div class="live-choices">
<div class="live-networks" {group}"Network"><b>Network</b>{"".join(networks)}</div>
<div class="live-images" {group}"Image"><b>Image</b>{"".join(images)}</div></div>
<p class="live-says" role="status"></p></fieldset></form>
<div class="live-still">{picture(still, html.escape(told))}<p>{html.escape(told)}</p></div>
<figcaption>{html.escape(self.caption)}</figcaption></figure>
<script class="live-data" type="application/json">{self.data()}</script></live-attack>"""

    def slider(self) -> str:
        """What the reader drags; over steps also a button, and the frame of a curve above them."""
        if self.over == "eps":
            most, stop = (MOST, 1) if self.photographs else (LARGEST, STOP)
            return f"""<label class="live-at"><b>Drag until it is wrong.</b> \
<span class="live-value">ε = 0/255</span>
<input {KEY} type="range" name="at" min="0" max="{most}" step="{stop}" value="0"></label>"""
        lines = '<polyline vector-effect="non-scaling-stroke"/>' * len(self.networks)
        return f"""<div class="live-path"><p>Probability of the true class after each step; \
thick: the network that is chosen</p><div><svg viewBox="0 0 {STEPS} 1" preserveAspectRatio="none" \
role="img" aria-label="No step yet.">{lines}</svg></div></div>
<div class="live-stepping"><button type="button">One step</button>
<label class="live-at"><b>Step until it is wrong.</b> <span class="live-value">step 0</span>
<input {KEY} type="range" name="at" min="0" max="{STEPS}" step="1" value="0"></label></div>"""


def canvas(side: int) -> str:
    return f'<canvas width="{side}" height="{side}"></canvas>'


def answer(p: Float[Tensor, " classes"], classes: Sequence[str]) -> str:
    """The likeliest class with its probability.

    >>> answer(torch.tensor([0.25, 0.75]), ["cat", "dog"])
    'dog (75 %)'
    """
    return f"{visible(classes[int(p.argmax())])} ({100 * p.max():.0f} %)"


@torch.no_grad()
def folded(model: ConvNet) -> dict[str, Any]:
    """The network as live.js has it: ``mean``, three convolutions with biases, and the head.

    BatchNorm and the input's standard deviation are part of the weights. The mean cannot be part
    of the bias, since the padding is zero *after* it is taken off: the page subtracts it first.

    >>> [layer["stride"] for layer in folded(ConvNet(6, width=2))["layers"]]
    [2, 2, 1]
    """
    body: Any = model.body
    normalize, layers = body[0], list[dict[str, Any]]()
    for conv, norm in zip(body[1::3], body[2::3], strict=True):
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = conv.weight * gain[:, None, None, None]
        if not layers:
            weight = weight / normalize.std.view(-1, 1, 1)
        bias = norm.bias - norm.running_mean * gain
        layers.append({"stride": conv.stride[0], **packed(weight, bias)})
    head = packed(model.head.weight, model.head.bias)
    return {"mean": rounded(normalize.mean.flatten()), "layers": layers, "head": head}


def packed(weight: Tensor, bias: Tensor) -> dict[str, Any]:
    """Weights as whole numbers of 12 bits, two base64 digits, times one scale per output.

    The output comes last. A page is light, and its logits are off by less than 1 %.

    >>> packed(torch.tensor([[0.5, -1.0]]), torch.tensor([0.25]))["bias"]
    [0.25]
    """
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-9) / 2047
    whole = (weight.movedim(0, -1) / scale).round().int() + 2047
    last = whole.movedim(0, -2).flatten()  # rows x columns x inputs x outputs
    text = DIGITS[torch.stack([last >> 6, last & 63], 1).numpy()].tobytes().decode()
    text += "A" * (-len(text) % 4)  # two weights are three bytes
    return {"whole": text, "scale": rounded(scale), "bias": rounded(bias)}


def in_base64(values: Tensor) -> str:
    return base64.b64encode(values.cpu().contiguous().numpy().tobytes()).decode()


def rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


def picture(image: Float[Tensor, "1 channels height width"], alt: str) -> str:
    """An image in [0, 1] as ``<img>``, a pixel of the file for each of its own."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    height, width = pixels.shape[:2]
    kind = "png" if height <= SMALL else "jpeg"
    Image.fromarray(pixels.numpy()).save(file := io.BytesIO(), kind, optimize=True, quality=85)
    source = base64.b64encode(file.getvalue()).decode()
    size = f'width="{width}" height="{height}"'
    return f'<img {size} alt="{alt}" src="data:image/{kind};base64,{source}">'


def bar(name: str, p: float, kind: str) -> str:
    number = f'<span class="live-number">{100 * p:.0f} %</span>'
    track = '<span class="live-track"></span>'
    return f'<li class="{kind}" style="--p:{p:.3f}"><span>{name}</span>{track}{number}</li>'


def radio(group: str, value: int, content: str, name: str = "") -> str:
    label = f' aria-label="{name}"' if name else ""
    state = " checked" if value == 0 else ""
    button = f'<input {KEY} type="radio" name="{group}" value="{value}"{label}{state}>'
    return f"<label>{button}{content}</label>"
