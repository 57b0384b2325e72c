"""The Gaussian model under the reader's hand: a display object for the last line of a cell."""

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccnotes import gaussian

KEY = "data-lm-suppress-shortcuts"  # on the control itself, else JupyterLab takes its arrow keys
SLIDERS = {  # title, least, greatest, start; the radius as a share of half the mean
    "mu": ("Mean μ", 0.2, 2, 1),
    "sigma": ("Spread σ", 0.05, 1.5, 0.5),
    "share": ("Radius ε", 0, 0.99, 0.4),
    "smoothing": ("Smoothing β", 0, 0.6, 0),
}
TOLD = {
    "threshold": "threshold ε₀",
    "smoothed": "smoothed, ε₁",
    "chosen": "w₂ / w₁, chosen",
    "best": "w₂ / w₁, best",
    "accuracy": "accuracy, chosen",
    "top": "accuracy, best",
}
PANELS = {
    "accuracy": "Robust accuracy against the ratio of the weights, against one given rival and "
    "against both; marks: the ratio that the margin loss chooses, and the best one.",
    "weights": "Both weights against the radius: they fall as it grows; that of cross-class "
    "features reaches 0 first, at the threshold, where a dotted line stands.",
}


@dataclass(frozen=True, kw_only=True)
class Playground:
    """Four sliders, the parameters of the Gaussian model, and what follows from them.

    The page itself computes robust accuracy, the weights that the margin loss chooses (smoothed in
    form 1), its threshold, and the best ratio of the weights, as :mod:`ccnotes.gaussian` does,
    without a server or a kernel. Where there are no scripts a sentence says the first state.

    >>> "gaussian-playground" in Playground(caption="Drag.")._repr_mimebundle_()["text/html"]
    True
    """

    caption: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = self.markup()
        if not os.environ.get("CCNOTES_BOOK"):  # there, book/_ext links one copy for all pages
            home = Path(__file__).parent
            page += f"<style>{(home / 'playground.css').read_text()}</style>"
            page += f"<script>{(home / 'playground.js').read_text()}</script>"
        return {"text/html": page, "text/plain": told()}

    def markup(self) -> str:
        """The figure, which the script fills in such that nothing on the page moves."""
        controls = "".join(
            f'<label><b>{title}</b><input {KEY} type="range" name="{name}" min="{low}" '
            f'max="{high}" step="0.01" value="{start}"><data data-name="{name}">{start:.2f}</data>'
            "</label>"
            for name, (title, low, high, start) in SLIDERS.items()
        )
        numbers = "".join(
            f'<div><dt>{title}</dt><dd><data data-name="{name}">–</data></dd></div>'
            for name, title in TOLD.items()
        )
        panels = "".join(
            f'<svg class="play-{name}" viewBox="0 0 380 330" role="img" aria-label="{text}"></svg>'
            for name, text in PANELS.items()
        )
        return f"""<gaussian-playground><figure>
<form autocomplete="off"><fieldset disabled class="play-sliders">{controls}</fieldset></form>
<p class="play-verdict">{told()}</p>
<div class="play-panels">{panels}</div>
<dl>{numbers}</dl><p class="play-says" role="status"></p>
<figcaption>{html.escape(self.caption)}</figcaption></figure></gaussian-playground>"""


def told() -> str:
    """The first state in a sentence.

    >>> told()
    'At μ = 1, σ = 0.5, ε = 0.2 AT keeps cross-class features: w₂ / w₁ = 0.53; best, 0.76.'
    """
    mu, sigma, share, beta = (start for *_, start in SLIDERS.values())
    setting = mu, sigma, share * mu / 2
    w1, w2 = gaussian.optimal_weights(*setting, 1.0, beta)
    best = gaussian.best_ratio(*setting)
    return (
        f"At μ = {mu}, σ = {sigma}, ε = {setting[2]:g} AT keeps cross-class features: "
        f"w₂ / w₁ = {w2 / w1:.2f}; best, {best:.2f}."
    )
