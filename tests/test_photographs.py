"""Photographs of a free licence, and what is told of them."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from ccnotes import photographs
from ccnotes.attacks import pgd
from ccnotes.data import to_float
from ccnotes.page import PHONE
from ccnotes.photographs import PICTURES, credits, published_seen
from ccnotes.records import load_model, published
from tests.helpers import CHECKPOINTS, needs_weights

ROOT = Path(__file__).parents[1]
FREE = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "public domain": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC BY 2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC BY 3.0 DE": "https://creativecommons.org/licenses/by/3.0/de/",
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
}
FULL = published("cifar10-full-")["at"]
CLASSES = FULL.content["dataset"]["classes"]


def test_each_photograph_has_a_complete_credit_and_each_credit_a_photograph():
    assert sorted(c.file for c in credits()) == sorted(p.name for p in PICTURES.glob("*.jpg"))
    for credit in credits():
        assert all(isinstance(part, str) and part.strip() for part in credit), credit
        assert FREE[credit.licence] == credit.licence_url
        assert credit.page.startswith("https://commons.wikimedia.org/wiki/File:")
        assert credit.label in CLASSES
        assert credit.file.startswith(credit.label)


def test_the_credits_on_the_page_name_author_and_licence_of_all():
    table = photographs.credits_list()
    for credit in credits():
        (row,) = (r for r in table.splitlines() if f"[{credit.title[:12]}" in r.replace("\\", ""))
        assert credit.author in row.replace("\\", "")
        assert f"[{credit.licence}]({credit.licence_url})" in row


def test_photographs_are_square_of_160_pixels_without_hidden_data_and_light_together():
    for credit in credits():
        with Image.open(PICTURES / credit.file) as stored:
            assert (stored.size, stored.mode, stored.format) == ((160, 160), "RGB", "JPEG")
            assert not stored.getexif()
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 400_000


def test_what_the_networks_see_is_the_photograph_made_smaller_with_antialiasing():
    """Fields of one colour keep it, and the mean of all stays: no pixel is left out."""
    for small, credit in zip(photographs.pixels(), credits(), strict=True):
        whole = photographs.picture(credit.file).mean((0, 1))
        np.testing.assert_allclose(small.float().mean((1, 2)), whole, atol=1.0)  # of 255


def test_the_shared_feature_serves_both_classes_more_than_any_other_does():
    """By a loop over all features."""
    means, head = (FULL.arrays[f"best_{k}"] for k in ("robust_class_means", "head.weight"))
    i, j = CLASSES.index("automobile"), CLASSES.index("truck")
    least = [
        min(means[i, k].item() * head[i, k].item(), means[j, k].item() * head[j, k].item())
        for k in range(means.shape[1])
    ]
    assert (
        photographs.shared_feature(FULL) == least.index(max(least)) == published_seen()["feature"]
    )


@needs_weights
@pytest.mark.parametrize("which", ["best", "last"])
def test_what_is_published_of_the_photographs_is_what_the_networks_say(which):
    """Of clean images to 4 digits, with room for another processor; of attacked ones the class."""
    told = published_seen()
    assert told["photographs"] == [c.file for c in credits()]
    network = load_model(CHECKPOINTS / f"cifar10-full-at-{which}.safetensors")
    found = told["networks"][which]
    x, y = to_float(photographs.pixels()), photographs.labels(CLASSES)
    with torch.no_grad():
        features = network.features(x)
        clean = network(x).softmax(1)
    torch.testing.assert_close(clean, torch.tensor(found["clean"]), atol=2e-3, rtol=0)
    shared = features[:, told["feature"]]
    torch.testing.assert_close(shared, torch.tensor(found["shared"]), atol=2e-3, rtol=2e-3)
    maps = photographs.looked_at(network, x, y)
    torch.testing.assert_close(maps, torch.tensor(found["map"]), atol=1e-2, rtol=1e-2)
    attack = FULL.configuration.eval_attack
    assert (attack.eps, attack.steps) == (told["attack"]["eps"], told["attack"]["steps"])
    few = [0, 2, 13]  # a minute for all
    adv = pgd(network, x[few], y[few], attack, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again = network(adv).softmax(1).gather(1, y[few, None])[:, 0]
    before = torch.tensor(found["attacked"])[few].gather(1, y[few, None])[:, 0]
    torch.testing.assert_close(again, before, atol=0.1, rtol=0)  # another random start


def test_the_record_says_where_it_came_from_and_is_small():
    made = published_seen()["made"]
    assert all(made[key] for key in ("commit", "date", "hardware", "precision", "torch"))
    assert photographs.SEEN.stat().st_size < 20_000


def test_above_the_diagonal_stands_the_best_network_and_below_it_the_last():
    ax = photographs.matrices(FULL).axes[0]
    told = {text.get_position(): text.get_text() for text in ax.texts}
    best, last = (FULL.arrays[f"{which}_robust_similarity"] for which in ("best", "last"))
    i, j = CLASSES.index("automobile"), CLASSES.index("truck")
    assert told[j + 0.5, i + 0.5] == f"{best[i, j]:.2f}"  # x is the column
    assert told[i + 0.5, j + 0.5] == f"{last[i, j]:.2f}"
    assert ax.get_ylim() == (10, 0)
    assert len(ax.images) == 2 * len(photographs.labelled())
    plt.close("all")


def test_a_wrong_name_bears_a_cross_and_a_right_one_none():
    figure = photographs.looks(CLASSES)
    panels = {ax.get_title(): ax.get_xlabel().split("\n") for ax in figure.axes}
    them = [c.label for c in credits()]
    for label in photographs.labelled():
        for which in ("best", "last"):
            found = published_seen()["networks"][which]
            lines = panels[f"{label}, {which}"]
            for kind, line in zip(("clean", "attacked"), lines, strict=True):
                table = found[kind][them.index(label)]
                name = CLASSES[table.index(max(table))]
                assert name in line
                assert f"{max(table):.0%}" in line
                assert ("✗" in line) == (name != label)
    plt.close("all")


def test_on_a_phone_the_matrix_has_no_numbers_and_photographs_stand_in_three_columns():
    """Best above last; letters of 10 points or more, in a figure as wide as a phone's text."""
    matrix = vars(photographs.matrices(FULL))["phone"]
    cells, bar = matrix.axes
    assert not [text.get_text() for text in cells.texts if text.get_text() != "–"]
    large = vars(photographs.looks(CLASSES))["phone"]
    for figure in (matrix, large):
        assert figure.get_size_inches()[0] == PHONE
        figure.canvas.draw()
        for text in figure.findobj(Text):
            assert not text.get_text() or text.get_fontsize() >= 10
    below, above = bar.get_window_extent(), cells.get_window_extent()
    assert below.y1 < above.y0
    places = {ax.get_title(): ax.get_window_extent() for ax in large.axes}
    for label in photographs.labelled():
        best, last = (places[f"{label}, {which}"] for which in ("best", "last"))
        assert best.x0 == last.x0
        assert 0 < best.y0 - last.y0 < 2 * best.height
    assert len({round(places[f"{label}, best"].x0) for label in photographs.labelled()}) == 3
    plt.close("all")


def test_a_photograph_is_dark_where_its_map_is():
    where = np.zeros((4, 4))
    where[0, 0] = 1
    shown, whole = photographs.lit("bird-1.jpg", where), photographs.picture("bird-1.jpg", 32)
    assert (shown[:3, :3] == whole[:3, :3]).all()  # the middle of the first place is at 3.5
    np.testing.assert_allclose(shown[16:, 16:], whole[16:, 16:] * 0.08, atol=0.5)


@needs_weights
def test_the_command_prints_what_is_published(command, monkeypatch):
    """For two of them; the whole takes a minute."""
    both = credits()[:2]
    monkeypatch.setattr(photographs, "credits", lambda: both)
    told = json.loads(command("photographs", CHECKPOINTS, "--threads", 1))
    before = published_seen()["networks"]["best"]["clean"][:2]
    np.testing.assert_allclose(told["networks"]["best"]["clean"], before, atol=2e-3)
    assert told["photographs"] == ["airplane-1.jpg", "airplane-2.jpg"]


def test_the_shared_feature_is_lit_by_cars_and_trucks_more_than_by_any_other_photograph():
    """In both networks, as chapter 7 says."""
    for found in published_seen()["networks"].values():
        theirs, others = [], []
        for credit, value in zip(credits(), found["shared"], strict=True):
            (theirs if credit.label in photographs.PAIR else others).append(value)
        assert len(theirs) == 4
        assert min(theirs) > 2 * max(others)


def test_at_the_last_epoch_no_other_feature_speaks_more_for_both():
    found = FULL.arrays["last_robust_class_means"] * FULL.arrays["last_head.weight"]
    both = torch.minimum(*(found[CLASSES.index(name)] for name in photographs.PAIR))
    assert both.argmax() == photographs.shared_feature(FULL)


def test_what_chapter_7_says_of_kitten_and_pairs():
    for which in ("best", "last"):
        kitten = [c.file for c in credits()].index("cat-1.jpg")
        assert photographs.named(which, "clean", CLASSES)[kitten][0] == "dog"
    best, last = (FULL.arrays[f"{which}_robust_similarity"] for which in ("best", "last"))
    pairs = torch.triu(torch.ones(10, 10), 1).bool()
    assert (last < best)[pairs].float().mean() > 0.8  # nearly every pair
    names = [f"{CLASSES[i]} {CLASSES[j]}" for i, j in pairs.nonzero().tolist()]
    top = {names[i] for i in last[pairs].topk(3).indices}
    assert top == {"automobile truck", "cat dog", "airplane ship"}
    assert top < {names[i] for i in best[pairs].topk(4).indices}
    bird_deer = names.index("bird deer")
    assert bird_deer in best[pairs].topk(4).indices
    assert bird_deer not in last[pairs].topk(8).indices
