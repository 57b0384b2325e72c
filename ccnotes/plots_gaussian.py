"""The moving figures of chapter 2: numbers in, Altair charts out."""

import altair as alt
import numpy as np
import pandas as pd

from ccnotes import gaussian
from ccnotes.moving import BLUE, GREEN, ORANGE, at, says

CROSS, OWN = "w₂, weight of cross-class features", "w₁, weight of class-specific features"


def radius(name: str, start: float, mu: float, sigma: float) -> alt.Parameter:
    """A slider for the radius of the attack, from 0 to just below half the mean of a feature.

    Its name says the threshold, so that a reader knows where to go.
    """
    called = f"Radius ε of the attack (ε₀ = {gaussian.threshold(mu, sigma):.3g}) "
    slider = alt.binding_range(min=0, max=0.49 * mu, step=0.01 * mu, name=called)
    return alt.param(name=name, value=start * mu, bind=slider)


def loss_surface(mu: float, sigma: float, reg: float) -> alt.LayerChart:
    """The margin loss over ``(w1, w2)`` and its minimiser, for a radius to drag.

    ``mu`` and ``sigma`` are mean and spread of a feature, ``reg`` is the weight decay.
    """
    eps0, top = gaussian.threshold(mu, sigma), mu / reg
    centre1 = f"({mu} - 2*eps)/{reg}"  # of the bowl, were w2 allowed below 0
    centre2 = f"({2 * eps0} - 2*eps)/{reg}"
    words = f"({centre2} > 1e-9 ? 'both kinds in use' : 'cross-class features dropped')"
    weights = f"format({centre1}, '.2f') + ', w₂ ' + format(max(0, {centre2}), '.2f')"
    said = says(f"'Radius ' + format(eps, '.2f') + ': w₁ ' + {weights} + ', ' + {words}")
    best = (
        alt.Chart(alt.Data(values=[{}]))
        .transform_calculate(
            w1=centre1,
            w2=f"max(0, {centre2})",
            words=words,
        )
        .encode(x="w1:Q", y="w2:Q")
    )
    dot = best.mark_point(
        shape="diamond", filled=True, size=160, color=ORANGE, stroke="white", opacity=1
    )
    verdict = best.mark_text(align="left", fontSize=13, fontWeight="bold").encode(
        x=alt.value(0), y=alt.value(-12), text="words:N"
    )
    edge = alt.Chart(
        pd.DataFrame({"w1": [top, mu / reg - 2 * eps0 / reg], "w2": [2 * eps0 / reg, 0]})
    )
    path = edge.mark_line(color="white", strokeDash=[5, 3], strokeWidth=2).encode(
        x="w1:Q", y="w2:Q"
    )
    end = (  # in the dark, too, the heat map is light here
        alt.Chart(pd.DataFrame({"w1": [mu / reg - 2 * eps0 / reg], "w2": [0], "name": ["ε₀"]}))
        .mark_text(dx=-12, dy=-10, fontSize=14, fontWeight="bold", color="white")
        .encode(x="w1:Q", y="w2:Q", text="name:N")
    )
    chart: alt.LayerChart = (
        (heat(centre1, centre2, mu, reg) + path + end + dot + verdict)
        .add_params(radius("eps", 0.1, mu, sigma), said)
        .properties(
            width=600,
            height=330,
            description="Heat map of the margin loss over the two weights with a diamond at its "
            "minimum. As the radius of the attack grows, the diamond slides down the dashed line, "
            f"reaches the axis w2 = 0 at ε₀ = {eps0:.3g} and then moves along it.",
        )
    )
    return chart


def heat(centre1: str, centre2: str, mu: float, reg: float) -> alt.Chart:
    """The loss above its minimum, a bowl whose centre the two expressions give, as a heat map."""
    top = mu / reg
    steps, size = 28, 1.2 * top / 28
    chart: alt.Chart = (
        alt.Chart(alt.sequence(steps * steps, as_="k"))
        .transform_calculate(
            w1=f"{size}*(datum.k % {steps})",
            w2=f"{size}*floor(datum.k / {steps})",
            w1_to=f"datum.w1 + {1.1 * size}",  # overlapping, so that no seams show
            w2_to=f"datum.w2 + {1.1 * size}",
            # Distance to the centre squared, less the centre's own below the axis: loss above best
            excess=f"{reg}/2*(pow(datum.w1 + {size / 2} - {centre1}, 2) + "
            f"pow(datum.w2 + {size / 2} - {centre2}, 2) - pow(min(0, {centre2}), 2))",
        )
        .mark_rect(clip=True)
        .encode(
            x=alt.X("w1:Q", title=OWN).scale(domain=[0, 1.2 * top], nice=False),
            x2="w1_to:Q",
            y=alt.Y("w2:Q", title=CROSS).scale(domain=[0, 1.2 * top], nice=False),
            y2="w2_to:Q",
            color=alt.Color("excess:Q", title="loss above its minimum")
            .scale(domain=[0, reg * top**2], scheme="blues", reverse=True, type="sqrt", clamp=True)
            .legend(orient="bottom", direction="horizontal", gradientLength=190),
        )
    )
    return chart


RATIOS = np.linspace(0, 1.5, 61)  # w2 / w1


def accuracies(mu: float, sigma: float) -> pd.DataFrame:
    """A row for each radius of the slider: robust accuracy against ``w2 / w1``, and two choices.

    ``one`` and ``both`` are curves over ``RATIOS``, in hundredths of a point, against one given
    rival and both; ``best`` is the ratio of the highest accuracy against both, ``at`` the one that
    the margin loss chooses. ``gain`` and ``won`` are what these two win over ``w2 = 0``, in points.
    """
    radii = mu * np.arange(0, 0.495, 0.01)
    grid = (1.0, RATIOS, mu, sigma, radii[:, None])
    one, both = (np.rint(1e4 * gaussian.robust_accuracy(*grid, r)) for r in ("one", "all"))
    best = gaussian.best_ratio(mu, sigma, radii)
    first, second = gaussian.optimal_weights(mu, sigma, radii, 1.0)
    start, top, chosen = (
        gaussian.robust_accuracy(1.0, ratio, mu, sigma, radii)
        for ratio in (0.0, best, second / first)
    )
    return pd.DataFrame(
        {
            "eps": radii.round(6),
            "one": one.astype(int).tolist(),
            "both": both.astype(int).tolist(),
            "best": np.round(best, 4),
            "gain": np.round(100 * (top - start), 2),
            "at": np.round(second / first, 4),
            "won": np.round(100 * (chosen - start), 2),
        }
    )


def accuracy_against_ratio(mu: float, sigma: float) -> alt.LayerChart:
    """What robust accuracy gains over ``w2 = 0``, against ``w2 / w1``, for a radius to drag."""
    rows = accuracies(mu, sigma)
    named = {"best": "best ratio", "gain": "its gain in points"}
    named |= {"at": "ratio of the margin loss", "won": "its gain"}
    told = at("radius", rows[[*named]].rename(columns=named).set_index(rows.eps - 0.004 * mu))
    now = alt.Chart(rows).transform_filter(f"abs(datum.eps - radius) < {0.004 * mu}")
    names = ["right against one given rival", "right against both rivals"]
    x = alt.X("ratio:Q", title="w₂ / w₁").scale(domain=[0, 1.5], nice=False)
    y = alt.Y("change:Q", title="change against w₂ = 0, in points")
    lines = (
        now.transform_calculate(k=f"sequence({len(RATIOS)})", b="datum.both[0]", o="datum.one[0]")
        .transform_flatten(["one", "both", "k"])
        .transform_calculate(ratio=f"datum.k * {RATIOS[1]:.4g}")
        .transform_fold(["one", "both"], as_=["key", "value"])
        .transform_calculate(
            rivals=f"datum.key == 'one' ? '{names[0]}' : '{names[1]}'",
            change="(datum.value - (datum.key == 'one' ? datum.o : datum.b)) / 100",
        )
        .mark_line(strokeWidth=2.5, clip=True)
        .encode(
            x=x,
            y=y.scale(domain=[-12, 10], nice=False),
            color=alt.Color("rivals:N", title=None).scale(domain=names, range=[ORANGE, BLUE]),
            strokeDash=alt.StrokeDash("rivals:N", title=None).scale(
                domain=names, range=[[6, 3], [1, 0]]
            ),
        )
    )
    peak = now.mark_point(
        shape="diamond", filled=True, size=120, color=BLUE, opacity=1, stroke="white"
    ).encode(x="best:Q", y="gain:Q")
    choice = now.mark_point(shape="circle", size=130, color=GREEN, strokeWidth=2.5, opacity=1)
    choice = choice.encode(x="at:Q", y="won:Q")
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(opacity=0.5).encode(y="y:Q")
    chart: alt.LayerChart = (
        alt.layer(zero, lines, choice, peak)
        .add_params(
            radius("radius", 0.2, mu, sigma),
            says(f"'Radius ' + format(radius, '.2f') + ': ' + {told}"),
        )
        .configure_legend(orient="top", columns=1, labelLimit=300, symbolSize=500)
        .properties(
            width=600,
            height=260,
            description="Change in robust accuracy since w2 = 0, in points, against the ratio of "
            "the weights: against one given rival (dashed) and against both (solid; diamond: its "
            "peak, circle: the choice of the margin loss). As the radius grows, peak and circle "
            f"move left and both reach 0 at ε₀ = {gaussian.threshold(mu, sigma):.3g}; against one "
            "rival the peak stays at 1.",
        )
    )
    return chart


def smoothed_weights(mu: float, sigma: float, reg: float) -> alt.LayerChart:
    """``w2`` against the radius, plain and in two forms of smoothing, for a strength to drag."""
    s = sigma / np.sqrt(np.pi)
    beta = alt.param(
        name="beta",
        value=0.3,
        bind=alt.binding_range(min=0, max=0.65, step=0.01, name="Smoothing β"),
    )
    names = ["no smoothing", "form 1: the rivals are averaged", "form 2: the target is softened"]
    formulas = [
        f"({mu - s} - 2*datum.eps)/{reg}",
        f"({mu} - (1 - beta)*{s} - 2*datum.eps)/{reg}",
        f"((1 - beta)*{mu} - {s} - (2 - beta)*datum.eps)/{reg}",
    ]
    limits = [
        f"{(mu - s) / 2}",
        f"({mu} - (1 - beta)*{s})/2",
        f"((1 - beta)*{mu} - {s})/(2 - beta)",
    ]
    ends_at = [f"format(max(0, {limit}), '.2f')" for limit in limits]
    said = (
        f"'Smoothing ' + format(beta, '.2f') + ': the weight reaches 0 at radius ' + {ends_at[0]}"
    )
    said += f" + ' without it, ' + {ends_at[1]} + ' in form 1, ' + {ends_at[2]} + ' in form 2'"
    hue = alt.Color("form:N", title=None, sort=names).scale(
        domain=names, range=["#8a8a8a", BLUE, ORANGE]
    )
    dash = alt.StrokeDash("form:N", title=None, sort=names).scale(
        domain=names, range=[[1, 0], [8, 3], [2, 2]]
    )
    x = alt.X("eps:Q", title="radius ε of the attack").scale(domain=[0, mu / 2], nice=False)
    y = alt.Y("w2:Q", title=CROSS).scale(domain=[0, mu / reg])
    grid = alt.Chart(alt.sequence(0, mu / 2, mu / 400, as_="eps"))
    curves, ends = [], []
    for name, formula, limit in zip(names, formulas, limits, strict=True):
        form = f"'{name}'"
        curves.append(
            grid.transform_calculate(w2=f"max(0, {formula})", form=form)
            .mark_line(strokeWidth=2.5)
            .encode(x=x, y=y, color=hue, strokeDash=dash)
        )
        ends.append(
            alt.Chart(alt.Data(values=[{}]))
            .transform_calculate(eps=limit, w2="0", form=form)
            .transform_filter("datum.eps >= 0")
            .mark_point(shape="triangle-down", filled=True, size=110, opacity=1, yOffset=-6)
            .encode(x=x, y=y, color=hue)
        )
    chart: alt.LayerChart = (
        alt.layer(*curves, *ends)
        .add_params(beta, says(said))
        .configure_legend(orient="top", labelLimit=300, columns=1, symbolSize=500)
        .properties(
            width=600,
            height=260,
            description="Optimal weight of the cross-class features against the radius: without "
            "smoothing, with form 1 and with form 2. A triangle marks where each reaches 0. As the "
            "smoothing grows, form 1's triangle moves right of the plain one, form 2's left.",
        )
    )
    return chart
