"""Photographs attacked beforehand: as published, as the networks say, and as a page shows them."""

import json
import re

import pytest
import torch
import torch.nn.functional as F

from ccnotes import frames, live
from ccnotes.attacks import pgd
from ccnotes.frames import BLOCK, CLASSES, FILES, attack_of, moved, published_frames
from ccnotes.live import LiveAttack
from ccnotes.models import ConvNet
from ccnotes.parts import parts
from ccnotes.records import load_model
from tests.helpers import BEST, CHECKPOINTS, needs_weights


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("pyautoattack")
    return [frames.standard(), load_model(BEST)]


@needs_weights
def test_what_is_published_is_what_the_networks_say_of_what_is_shown(networks):
    for found in published_frames():
        for n, network in enumerate(networks):
            for eps in (0, 1, 16):
                seen = found.attacked(n, eps)
                with torch.no_grad():
                    p = network(F.avg_pool2d(seen, BLOCK)).softmax(1)[0]
                expected = p[[CLASSES.index(name) for name in found.classes]]
                # Four digits are kept; another processor rounds otherwise.
                torch.testing.assert_close(
                    torch.tensor(found.p[n][eps]), expected, atol=5e-3, rtol=0
                )


@needs_weights
def test_each_block_moves_where_the_attack_went(networks):
    found, network = published_frames()[0], networks[1]
    x = F.avg_pool2d(found.x(), BLOCK)
    y = torch.tensor([CLASSES.index(found.classes[found.label])])
    up = pgd(network, x, y, attack_of(8)) > x
    shown = F.avg_pool2d(found.attacked(1, 8), BLOCK) > x
    clear = (x > 0.1) & (x < 0.9)  # else a block may be clipped
    assert (up == shown)[clear].double().mean() > 0.99  # a gradient next to nothing may turn


def test_no_pixel_of_a_photograph_leaves_its_ball_or_the_range():
    for found in published_frames():
        for n in range(2):
            change = found.attacked(n, 8) - found.x()
            assert change.abs().max() <= 8 / 255 + 1e-6
            assert change.abs().median() == pytest.approx(8 / 255, abs=1e-6)
    assert moved(torch.full((1, 3, 5, 5), 0.9), torch.ones(1, 3, 1, 1), 51).max() == 1


def test_both_networks_are_right_at_first_and_each_is_fooled_the_standard_one_sooner():
    """As the first page invites the reader to see."""
    for found in published_frames():
        assert len(found.classes) == frames.BARS
        first = [
            next(e for e, p in enumerate(table) if max(p) != p[found.label]) for table in found.p
        ]
        assert 0 < first[0] <= 2
        assert first[0] <= first[1]
    assert [found.file for found in published_frames()] == list(FILES)
    bird = published_frames()[0]  # chapter 1 opens with it
    assert bird.classes[bird.p[0][1].index(max(bird.p[0][1]))] == "airplane"


@needs_weights
def test_the_command_prints_what_is_published(command, monkeypatch):
    """For one photograph up to the radius 1/255; the whole takes minutes."""
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr(frames, "FILES", FILES[:1])
    monkeypatch.setattr(frames, "MOST", 1)
    told = json.loads(command("photographs", CHECKPOINTS, "--frames", "--threads", 1))
    before = json.loads(frames.PUBLISHED_FRAMES.read_text())
    at = before["photographs"].index(FILES[0])
    for name, found in told["networks"].items():
        expected = torch.tensor(before["networks"][name]["p"][at][:2])
        torch.testing.assert_close(torch.tensor(found["p"][0]), expected, atol=5e-3, rtol=0)
    assert told["made"].keys() == before["made"].keys()


def test_without_its_wheel_the_standard_network_is_named(monkeypatch):
    monkeypatch.setattr(frames, "shipped", lambda: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ccnotes\[autoattack\]'"):
        frames.standard()


@pytest.fixture(scope="module")
def shown():
    drawn = parts(60, seed=0, split="test")
    return {
        "networks": {"standard": ConvNet(6, width=2).eval(), "robust": ConvNet(6, width=4).eval()},
        "images": drawn.images[:2],
        "labels": drawn.labels[:2],
        "classes": drawn.classes,
        "notes": ["one", "two"],
        "caption": "Drag.",
        "photographs": published_frames(),
    }


@pytest.mark.usefixtures("unchecked")
def test_photographs_that_do_not_fit_are_named(shown):
    with pytest.raises(ValueError, match=r"eps=0\.5 over eps: photographs were attacked"):
        LiveAttack(**shown | {"eps": 0.5})
    with pytest.raises(ValueError, match="eps=4 over steps: photographs were attacked beforehand"):
        LiveAttack(**shown, over="steps")
    with pytest.raises(ValueError, match="1 networks, and photographs attacked on another number"):
        LiveAttack(**shown | {"networks": {"standard": ConvNet(6, width=2)}})


@pytest.fixture(scope="module")
def figure(browser, shown):
    tab = browser.new_page(viewport={"width": 800, "height": 900})
    page = LiveAttack(**shown)._repr_mimebundle_()["text/html"]
    tab.set_content(f"<!doctype html>{page}")
    tab.locator("live-attack[data-ready]").wait_for()
    yield tab.locator("live-attack")
    tab.close()


def test_a_page_moves_the_pixels_of_a_photograph_as_python_does(figure):
    found = published_frames()[1]
    x, expected = (t[0].permute(1, 2, 0).flatten() for t in (found.x(), found.attacked(1, 8)))
    ours = figure.page.evaluate(
        "([x, signs, eps]) => [...liveAttack.leafed(Float32Array.from(x), signs, eps)]",
        [x.tolist(), found.signs[1][7], 8 / 255],
    )
    torch.testing.assert_close(torch.tensor(ours), expected, atol=1e-6, rtol=0)


def test_the_slider_leafs_through_a_photograph_and_its_bars_are_those_published(figure):
    found, slider = published_frames()[1], figure.get_by_role("slider")
    figure.locator("[name=image]").nth(1).check()
    for n in range(2):
        figure.locator("[name=network]").nth(n).check()
        for eps in (0, 3, 16):
            slider.fill(str(eps))
            p = found.p[n][eps]
            said = f"{found.classes[p.index(max(p))]} ({100 * max(p):.0f} %)"
            figure.locator(".live-verdict", has_text=re.compile(re.escape(said))).wait_for()
            bars = figure.locator(".live-bars li").all_inner_texts()
            assert [bar.split()[0] for bar in bars] == found.classes
    slider.fill("0")
    assert figure.locator(".live-note").inner_text().startswith("Photograph: ")


def test_between_photographs_and_drawn_images_the_slider_s_range_and_the_classes_change(figure):
    slider = figure.get_by_role("slider")
    figure.locator("[name=image]").nth(4).check()
    figure.locator(".live-note", has_text="one").wait_for()
    assert slider.get_attribute("max") == str(live.LARGEST)
    slider.press("End")
    figure.locator(".live-value", has_text="30/255").wait_for()
    figure.locator("[name=image]").nth(0).check()
    figure.locator(".live-value", has_text="16/255").wait_for()
    assert slider.get_attribute("step") == "1"
    sizes = [c.get_attribute("width") for c in figure.locator(".live-pictures canvas").all()]
    assert sizes == ["160"] * 3
