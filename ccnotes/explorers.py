"""Figures to try an idea on: native controls, and what follows from them, drawn by the page."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import altair as alt
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ccnotes.attribution import cas, class_similarity
from ccnotes.checks import few
from ccnotes.data import to_float
from ccnotes.models import Network
from ccnotes.modes import evaluating
from ccnotes.moving import (
    BLUE,
    GREEN,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    PURPLE,
    cells,
    chosen,
    hundredths,
    name_at,
    numbered,
    says,
)
from ccnotes.parts import DEFAULT, Kind, PartImages, parts
from ccnotes.records import Record
from ccnotes.tables import visible

INGREDIENTS = (*get_args(Kind), "noise")
TITLES = {"own": "own part", "shared": "shared part", "clutter": "clutter", "noise": "noise"}
TOP = 20  # features shown of two classes
ENDS = ("best", "last")


def builder(model: Network, description: str, *, first: int = 0) -> alt.ConcatChart:
    """Four switches, the ingredients of a planted image, and what a network makes of it.

    The first test image of each class, built from own part, shared part, clutter and noise, each
    of them there or not; all else stays as it is. It starts with the class ``first``.
    ``description`` is the text for those who do not see the chart. Raises ValueError for a network
    of other classes.

    >>> from ccnotes.models import ConvNet
    >>> builder(ConvNet(6, width=2), "Parts come and go.").description
    'Parts come and go.'
    """
    rows, answers = [], []
    for on in itertools.product((True, False), repeat=len(INGREDIENTS)):
        there = dict(zip(INGREDIENTS, on, strict=True))
        drawn = built(there, DEFAULT.num_classes)
        with evaluating(model), torch.no_grad():
            p = model(to_float(drawn.images)).softmax(1)
        check_fits(p.shape[1], drawn.classes, first)
        has = ", ".join(title for kind, title in TITLES.items() if there[kind]) or "nothing"
        answers += [
            f"{has}: the network says {visible(drawn.classes[int(of_image.argmax())])}, "
            f"{of_image.max():.0%}"
            for of_image in p
        ]
        rows += [
            {"y": y, "picture": pixels_of(image), "p": of_image} | there
            for y, (image, of_image) in enumerate(
                zip(drawn.images, hundredths(p[:, None]), strict=True)
            )
        ]
    classes = drawn.classes
    names = [visible(name) for name in classes]
    which = chosen("image", "Image of ", first, range(len(names)), names)
    switches = [
        alt.param(name=kind, value=True, bind=alt.binding_checkbox(name=f"{TITLES[kind]} "))
        for kind in INGREDIENTS
    ]
    off = " + ".join(f"{2**k} * !{kind}" for k, kind in enumerate(reversed(INGREDIENTS)))
    said = f"'Image of ' + {name_at(classes, 'image')} + ', made of ' + {json.dumps(answers)}"
    said += f"[{len(names)} * ({off}) + image]"
    now = " && ".join(["datum.y == image", *(f"datum.{kind} == {kind}" for kind in INGREDIENTS)])
    base = alt.Chart(pd.DataFrame(rows)).transform_filter(now)
    grid = (
        base.transform_flatten(["picture"])
        .transform_window(place="row_number()")
        .transform_calculate(
            row=f"floor((datum.place - 1) / {DEFAULT.image_size})",
            column=f"(datum.place - 1) % {DEFAULT.image_size}",
        )
        .mark_rect()
        .encode(
            x=alt.X("column:O", axis=None),
            y=alt.Y("row:O", axis=None),
            color=alt.Color("picture:N", scale=None),
        )
    )
    flat = base.transform_flatten(["p"]).transform_window(place="row_number()")
    told = flat.transform_calculate(
        name=name_at(classes, "datum.place - 1"), share="datum.p / 100", true="datum.place-1==image"
    )
    base = told.encode(
        x=alt.X("share:Q", title="probability").scale(domain=[0, 1.15]).axis(None),
        y=alt.Y("name:N", title=None, sort=None),
    )
    bars = base.mark_bar().encode(
        color=alt.condition("datum.true", alt.value(BLUE), alt.value(ORANGE))
    ) + base.mark_text(align="left", dx=4, fontSize=13).encode(
        text=alt.Text("share:Q", format=".0%")
    )
    chart: alt.ConcatChart = (
        alt.concat(
            grid.properties(width=280, height=280, title="the image"),
            bars.properties(width=300, height=280, title="what the network says"),
            columns=2,
        )
        .resolve_scale(color="independent", x="independent", y="independent")
        .add_params(which, *switches, says(said))
    )
    return chart.properties(description=description)


def built(there: dict[str, bool], count: int) -> PartImages:
    """Test images with only those ingredients that are ``there``.

    >>> bare = built(dict.fromkeys(INGREDIENTS, False), 6)
    >>> bare.images.unique()  # mid-grey
    tensor([128], dtype=torch.uint8)
    """
    absent: dict[str, Any] = {
        kind if kind == "noise" else f"{kind}_amplitude": 0.0
        for kind, is_there in there.items()
        if not is_there
    }
    return parts(count, replace(DEFAULT, **absent), seed=0, split="test")


def pixels_of(image: Tensor) -> list[str]:
    """The colours of an image, row by row.

    >>> pixels_of(torch.tensor([[[255]], [[0]], [[16]]], dtype=torch.uint8))
    ['#ff0010']
    """
    return [f"#{bytes(pixel).hex()}" for pixel in image.flatten(1).T.tolist()]


def angles(description: str) -> alt.ConcatChart:
    """Three sliders, the directions of three classes' vectors, and their cosines and CAS.

    >>> angles("Three arrows in a plane.").description
    'Three arrows in a plane.'
    """
    names, hues = ["A", "B", "C"], [BLUE, ORANGE, GREEN]
    params = [
        alt.param(
            name=f"angle{name}",
            value=value,
            bind=alt.binding_range(min=-180, max=180, step=5, name=f"Class {name}, degrees "),
        )
        for name, value in zip(names, (20, 50, 110), strict=True)
    ]
    turn = "[angleA, angleB, angleC]"
    classes = alt.Chart(pd.DataFrame({"k": range(3), "name": names, "zero": 0.0}))
    close = " + ".join(  # to how many of the classes before it: as many letters stand in between
        f"(datum.k > {k} && cos(({turn}[datum.k] - angle{name}) * PI / 180) > 0.97)"
        for k, name in enumerate(names[:-1])
    )
    arrows = classes.transform_calculate(
        x=f"cos({turn}[datum.k] * PI / 180)",
        y=f"sin({turn}[datum.k] * PI / 180)",
        away=f"1.17 + 0.19 * ({close})",
        label_x="datum.away * datum.x",
        label_y="datum.away * datum.y",
    )
    plane: dict[str, Any] = {"domain": [-1.65, 1.65], "nice": False}
    x = alt.X("x:Q", title="feature 1").scale(**plane).axis(values=[-1, 0, 1])
    y = alt.Y("y:Q", title="feature 2").scale(**plane).axis(values=[-1, 0, 1])
    hue = alt.Color("name:N", legend=None).scale(domain=names, range=hues)
    line = arrows.mark_rule(strokeWidth=3).encode(x=x, y=y, x2="zero", y2="zero", color=hue)
    head = arrows.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, color=hue)
    label = arrows.mark_text(fontSize=14, fontWeight="bold").encode(
        x=alt.X("label_x:Q", title="feature 1"),
        y=alt.Y("label_y:Q", title="feature 2"),
        text="name:N",
    )
    every = {
        f"{one} and {other}": f"cos((angle{one} - angle{other}) * PI / 180)"
        for one, other in itertools.combinations(names, 2)
    }
    positive = " + ".join(f"2 * max(0, {cosine})" for cosine in every.values())
    said = f"'CAS ' + format({positive}, '.2f') + '; cosine of " + " + ', of ".join(
        f"{pair} ' + format({cosine}, '.2f')" for pair, cosine in every.items()
    )
    pairs = pd.DataFrame([{"i": i, "j": j} for i in range(3) for j in range(3)])
    cosines = alt.Chart(pairs).transform_calculate(
        value=f"cos(({turn}[datum.i] - {turn}[datum.j]) * PI / 180)",
        row=name_at(names, "datum.i"),
        column=name_at(names, "datum.j"),
    )
    heat = cosines.mark_rect().encode(
        x=alt.X("column:N", title=None).axis(labelAngle=0),
        y=alt.Y("row:N", title=None),
        color=alt.Color("value:Q", legend=None).scale(
            domain=[-1, 1], scheme="redblue", reverse=True
        ),
    )
    numbers = heat.mark_text(fontSize=14).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition("abs(datum.value) > 0.6", alt.value("white"), alt.value("black")),
    )
    total = (
        cosines.transform_filter("datum.i != datum.j")
        .transform_calculate(positive="max(datum.value, 0)")
        .transform_aggregate(cas="sum(positive)")
    )
    bar = total.mark_bar(color=PURPLE).encode(
        x=alt.X("cas:Q", title="CAS: what is positive off the diagonal")
        .scale(domain=[0, 7.5], nice=False)  # of at most 6, so that there is room for the number
        .axis(values=[*range(7)])
    )
    number = total.mark_text(align="left", dx=5, fontSize=14, fontWeight="bold").encode(
        x="cas:Q", text=alt.Text("cas:Q", format=".2f")
    )
    chart: alt.ConcatChart = (
        alt.concat(
            (line + head + label).properties(width=280, height=280, title="attribution vectors"),
            alt.vconcat(
                (heat + numbers).properties(width=240, height=180, title="their cosines"),
                (bar + number).properties(width=240, height=24),
            ),
            columns=2,
        )
        .resolve_scale(color="independent", x="independent", y="independent")
        .add_params(*params, says(said))
    )
    return chart.properties(description=description)


def shared(
    attributions: Mapping[str, Float[Tensor, "classes features"]],
    classes: Sequence[str],
    description: str,
) -> alt.LayerChart:
    """Two classes to choose, their attributions as mirrored bars, and what they share lit.

    Shown are the features that contribute most to one of the two; what they share of a feature is
    the smaller of their contributions, where both are above 0. Cosine and share are of all
    features; the share is what both have of all that is above 0 in the class with less of it.
    Of several networks, which have the same features, one is chosen by its name; features are those
    of the first, and the scale of two classes is the same for all. Raises ValueError unless there
    is a name for each class, and more than one.

    >>> chart = shared({"best epoch": torch.eye(2)}, ["cat", "dog"], "Nothing is shared.")
    >>> chart.description
    'Nothing is shared.'
    """
    every = list(attributions.values())
    attribution = every[0]
    for one in every:
        check_fits(len(one), classes, 1)
    # The first of two classes are among the first of one of them.
    used = attribution.abs().argsort(dim=1, descending=True)[:, :TOP].unique()
    rows = pd.DataFrame(
        {f"c{n}_{k}": a[used].tolist() for n, of in enumerate(every) for k, a in enumerate(of)}
    )
    names = [visible(name) for name in classes]
    params = [
        chosen(name, title, value, range(len(names)), names)
        for name, title, value in (("above", "Above ", 0), ("below", "Below ", 1))
    ]
    of = alt.param(name="of", value=0)
    if len(every) > 1:
        of = chosen("of", "Network ", 0, range(len(every)), [*map(visible, attributions)])
    cosines, shares = (
        json.dumps([[round(v, 4) for v in told(one).flatten().tolist()] for one in every])
        for told in (class_similarity, shares_of)
    )
    upper, lower = "datum['c0_' + above]", "datum['c0_' + below]"
    base = (
        alt.Chart(rows)
        .transform_calculate(
            up="datum['c' + of + '_' + above]",
            down="-datum['c' + of + '_' + below]",
            both="max(min(datum.up, -datum.down), 0)",
            mirrored="-datum.both",
            most=f"max(abs({upper}), abs({lower}))",
            turn=f"{upper} - {lower}",
        )
        .transform_window(rank="row_number()", sort=[alt.SortField("most", "descending")])
        .transform_filter(alt.datum.rank <= TOP)
        .transform_window(feature="row_number()", sort=[alt.SortField("turn", "descending")])
    )
    reach = [round(1.05 * top, 4) for top in torch.stack(every).abs().amax((0, 2)).tolist()]
    end = f"max({reach}[above], {reach}[below])"
    x = alt.X("feature:O", title="feature, from one class's own to the other's").axis(
        labels=False, ticks=False
    )

    kinds, hues = ["above", "below", "what they share"], [PALE_BLUE, PALE_ORANGE, GREEN]
    told = f"datum.index == 0 ? {name_at(classes, 'above')} : datum.index == 1 ? "
    told += f"{name_at(classes, 'below')} : datum.label"

    def bars(column: str, kind: str) -> alt.Chart:
        y = alt.Y(f"{column}:Q", title="contribution to the own logit").scale(
            domainMin=alt.ExprRef(f"-{end}"), domainMax=alt.ExprRef(end), nice=False
        )
        key = alt.Legend(orient="top", title=None, labelExpr=told)
        hue = alt.Color("kind:N", legend=key).scale(domain=kinds, range=hues)
        named = base.transform_calculate(kind=json.dumps(kind))
        found: alt.Chart = named.mark_bar(opacity=1).encode(
            x=x, y=y.axis(labelExpr="abs(datum.value)"), color=hue
        )
        return found

    both = (
        "(above == below ? 'choose two classes' : "
        f"'cosine ' + format({cosines}[of][above * {len(names)} + below], '.2f') + "
        f"', shared ' + format({shares}[of][above * {len(names)} + below], '.0%'))"
    )
    said = f"{name_at(classes, 'above')} + ' and ' + {name_at(classes, 'below')} + ': ' + {both}"
    if len(every) > 1:
        said = f"{name_at([*attributions], 'of')} + ', ' + {said}"
    title = (
        alt.Chart(pd.DataFrame({"one": [1]}))
        .transform_calculate(text=both)
        .mark_text(align="right", baseline="top", fontSize=16, fontWeight="bold")
        .encode(x=alt.value("width"), y=alt.value(4), text="text:N")
    )
    chart: alt.LayerChart = (
        bars("up", kinds[0])
        + bars("down", kinds[1])
        + bars("both", kinds[2])
        + bars("mirrored", kinds[2])
        + title
    ).add_params(of, *params, says(said))
    return chart.properties(width=680, height=260, description=description)


def shares_of(
    attribution: Float[Tensor, "classes features"],
) -> Float[Tensor, "classes classes"]:
    """What two classes both have, as a share of what is above 0 in the one with less of it.

    >>> shares_of(torch.tensor([[3.0, 1.0], [2.0, -1.0]]))[0]
    tensor([1., 1.])
    """
    above = attribution.clamp_min(0)
    both, own = torch.minimum(above[:, None], above).sum(2), above.sum(1)
    return both / torch.minimum(own[:, None], own).clamp_min(1e-12)


def swaps(record: Record, description: str) -> alt.ConcatChart:
    """Features and head, each of the best or of the last epoch: CAS, accuracy, similarity.

    Bars are of all four networks, and the matrix, at the right or on phones below, is that of the
    chosen one. The matrix and CAS are of the class means of attacked test images times the head,
    each network attacked as its own features' was; each of the four networks is attacked itself for
    the accuracy. Raises ValueError for a record without swaps.

    >>> from ccnotes.records import runs
    >>> swaps(runs("parts-at")[0], "Four networks.").description
    'Four networks.'
    """
    classes, rows = list(record.content["dataset"]["classes"]), []
    for (i, features), (j, head) in itertools.product(enumerate(ENDS), repeat=2):
        means = record.arrays[f"{features}_robust_class_means"].float()
        cosines = class_similarity(means * record.arrays[f"{head}_head.weight"].float())
        rows.append(
            {
                "features": features,
                "head": head,
                "network": f"{features} features, {head} head",
                "CAS": cas(cosines).item(),
                "robust accuracy": record.swaps["accuracy"][i, j].item(),
                "matrix": hundredths(cosines[None])[0],
            }
        )
    table = pd.DataFrame(rows)
    params = [
        alt.param(
            name=name, value="best", bind=alt.binding_radio(options=list(ENDS), name=f"{title} ")
        )
        for name, title in (("features", "Features"), ("head", "Head"))
    ]
    told = [f"CAS {row['CAS']:.2f}, robust accuracy {row['robust accuracy']:.1%}" for row in rows]
    said = f"'Features ' + features + ', head ' + head + ': ' + {json.dumps(told)}"
    said += "[2 * (features == 'last') + (head == 'last')]"
    now = "datum.features == features && datum.head == head"
    heat = cells(table, now, "matrix", classes, len(classes), "cosine").encode(
        x=alt.X("column:O", title=None).axis(labelExpr=name_at(classes, "datum.value"))
    )
    matrix = numbered(heat, classes, ".1f", "abs(datum.value) > 0.6", 0.1)

    def bars(column: str, colour: str, form: str) -> alt.LayerChart:
        base = alt.Chart(table).encode(
            x=alt.X(f"{column}:Q", title=column).axis(tickCount=4),
            y=alt.Y("network:N", sort=None, title=None).axis(
                labelExpr="split(datum.value, ', ')",  # on two lines
                labelOffset=-7,
            ),
        )
        number = base.mark_text(align="left", dx=4, fontSize=12).encode(
            text=alt.Text(f"{column}:Q", format=form)
        )
        lit = alt.condition(now, alt.value(1), alt.value(0.45))
        found: alt.LayerChart = base.mark_bar(color=colour).encode(opacity=lit) + number
        return found.properties(width=230, height=136)

    chart: alt.ConcatChart = (
        alt.concat(
            alt.vconcat(bars("CAS", PURPLE, ".2f"), bars("robust accuracy", BLUE, ".1%")),
            matrix.properties(width=230, height=230),
            columns=2,
        )
        .resolve_scale(color="independent", x="independent", y="independent")
        .add_params(*params, says(said))
    )
    return chart.properties(description=description)


def check_fits(count: int, classes: Sequence[str], first: int) -> None:
    if count != len(classes) or not 0 <= first < count:
        raise ValueError(
            f"{count} classes, of which number {first} is shown first, called {few(classes)}: "
            f"give one name for each, and a class that there is."
        )
