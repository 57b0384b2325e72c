"""Networks in the page against torch: the same logits, gradients, attacks; and their figure."""

import base64
import json
import math
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ccnotes
from ccnotes import live
from ccnotes.attacks import pgd
from ccnotes.data import to_float
from ccnotes.live import LiveAttack, attack_of, folded
from ccnotes.models import ConvNet, PreActResNet
from ccnotes.parts import parts

NAMES = ["a$b", "<b>&amp;", "_a_b", "\x1b[31mred\n", 'it\'s "so" \\n', "</script><!--<script>"]
TWINS = {"parts-standard-small": "last", "parts-at-small": "best"}


@pytest.fixture(scope="module")
def drawn():
    return parts(60, seed=0, split="test")


@pytest.fixture(scope="module", params=[*TWINS, "of odd width"])
def model(request):
    if request.param == "of odd width":  # its first layer has an odd number of weights
        torch.manual_seed(0)
        return ConvNet(6, width=3).eval()
    return ccnotes.runs(request.param)[0].model(TWINS[request.param]).eval()


@pytest.fixture(scope="module")
def tab(browser):
    tab = browser.new_page()
    tab.add_script_tag(path=Path(live.__file__).with_suffix(".js"))
    yield tab
    tab.close()


def rows(x):
    """As the page has pixels: channels last, an image a list."""
    return x.permute(0, 2, 3, 1).flatten(1).tolist()


def in_browser(tab, model, x, y, eps=0, steps=live.STEPS):
    """Logits, gradients, attacked images, and the probabilities of these."""
    found = tab.evaluate(
        """([network, images, labels, eps, steps]) => {
          const net = liveAttack.unpack(network);
          return images.map((image, i) => {
            const x = Float32Array.from(image), y = labels[i];
            const adv = liveAttack.pgd(net, x, y, eps / 255, steps);
            return [liveAttack.forward(net, x).logits, [...liveAttack.gradient(net, x, y)],
                    [...adv], liveAttack.forward(net, adv).probabilities];
          });
        }""",
        [folded(model), rows(x), y.tolist(), eps, steps],
    )
    logits, gradient, adv, p = (torch.tensor(part) for part in zip(*found, strict=True))
    n, c, h, w = x.shape
    back = (part.view(n, h, w, c).permute(0, 3, 1, 2) for part in (gradient, adv))
    return logits, *back, p


def in_torch(network, x, y):
    """In float64: in float32 the gradient is noise where the network is all but certain."""
    x = x.double().requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return logits.detach(), gradient


def as_folded(model):
    """The same network from what the page gets, read a second way."""
    packed = folded(model)

    def layer(of, inputs, *places):
        bits = "".join(f"{byte:08b}" for byte in base64.b64decode(of["whole"]))
        numbers = [int(bits[i : i + 12], 2) - 2047 for i in range(0, len(bits), 12)]
        shape = *places, inputs, len(of["bias"])
        weight = np.array(numbers[: math.prod(shape)]).reshape(shape) * np.array(of["scale"])
        weight = np.moveaxis(np.moveaxis(weight, -1, 0), -1, 1)
        return torch.tensor(weight), torch.tensor(of["bias"]).double()

    def forward(x):
        h = x - torch.tensor(packed["mean"]).double().view(-1, 1, 1)
        for of in packed["layers"]:
            h = F.conv2d(h, *layer(of, h.shape[1], 3, 3), of["stride"], 1).relu()
        return F.linear(h.mean((2, 3)), *layer(packed["head"], h.shape[1]))

    return forward


def error(found, expected):
    """The largest difference of each row, relative to the row's largest value."""
    found, expected = found.flatten(1).double(), expected.flatten(1)
    return (found - expected).abs().amax(1) / expected.abs().amax(1)


def test_browser_and_torch_agree_on_logits_and_signs_of_gradients(tab, model, drawn):
    x, y = to_float(drawn.images), drawn.labels
    logits, gradient, *_ = in_browser(tab, model, x, y)
    expected, slope = in_torch(deepcopy(model).double(), x, y)
    # A weight has 12 bits, so it is off by up to 2.5e-4 of its output's largest.
    assert error(logits, expected).max() <= 1e-2
    assert (gradient.sign() == slope.sign()).double().mean() >= 0.99


def test_with_the_weights_that_it_gets_the_browser_is_exact(tab, model, drawn):
    x, y = to_float(drawn.images[:12]), drawn.labels[:12]
    logits, gradient, *_ = in_browser(tab, model, x, y)
    expected, slope = in_torch(as_folded(model), x, y)
    assert error(logits, expected).max() <= 1e-5  # maps are of single precision
    assert error(gradient, slope).median() <= 1e-5
    assert (gradient.sign() == slope.sign()).double().mean() >= 0.9995


@pytest.mark.parametrize("eps", [0.5, 4, 16])
def test_attacks_end_alike_in_browser_and_torch(tab, model, drawn, eps):
    x, y = to_float(drawn.images[:24]), drawn.labels[:24]
    *_, adv, p = in_browser(tab, model, x, y, eps)
    assert (adv - x).abs().max() == pytest.approx(eps / 255, rel=1e-4)
    assert adv.min() >= 0
    assert adv.max() <= 1
    with torch.no_grad():
        expected = model(pgd(model, x, y, attack_of(eps))).softmax(1)
    # A pixel with next to no gradient parts the paths; where they end the network says the same.
    assert (p - expected).abs().max() <= 0.1
    assert (p - expected).abs().mean() <= 0.005


def test_browser_and_torch_agree_step_by_step(tab, model, drawn):
    """As the figure over steps shows them: after each, not only at the end."""
    x, y = to_float(drawn.images[:12]), drawn.labels[:12]
    for steps in range(live.STEPS + 1):
        *_, adv, p = in_browser(tab, model, x, y, 12, steps)
        with torch.no_grad():
            expected = pgd(model, x, y, replace(attack_of(12), steps=steps)) if steps else x
            told = model(expected).softmax(1)
        assert (p - told).abs().max() <= 0.1  # see above
        assert (p - told).abs().mean() <= 0.005
        assert (adv - x).abs().max() <= min(steps / 4, 1) * 12 / 255 + 1e-6


def figure(drawn, **changes):
    asked = {
        "networks": {"standard": ConvNet(6, width=2).eval(), "robust": ConvNet(6, width=4).eval()},
        "images": drawn.images[:6],
        "labels": drawn.labels[:6],
        "classes": drawn.classes,
        "caption": "Drag.",
    }
    return LiveAttack(**asked | changes)


def test_the_still_figure_says_what_torch_says(drawn):
    networks = {f"net {width}": ConvNet(6, width=width).eval() for width in (2, 3)}
    told = figure(drawn, networks=networks, eps=8)._repr_mimebundle_()["text/plain"]
    x, y = to_float(drawn.images[:1]), drawn.labels[:1]
    for name, model in networks.items():
        with torch.no_grad():
            p = model(pgd(model, x, y, attack_of(8))).softmax(1)[0]
        assert (
            f"the {name} network says {drawn.classes[p.argmax()]} ({100 * p.max():.0f} %)" in told
        )
    assert told.startswith("An image of car, each pixel changed by at most 8/255: ")


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_attacked_in_a_page_is_named(drawn):
    with pytest.raises(ValueError, match="'deep' is a PreActResNet, which the page's script"):
        figure(drawn, networks={"deep": PreActResNet(6, width=4)})
    with pytest.raises(ValueError, match="'few' has 4 logits for 6 classes"):
        figure(drawn, networks={"few": ConvNet(4, width=2)})
    with pytest.raises(ValueError, match="give at least one network"):
        figure(drawn, networks={})
    with pytest.raises(ValueError, match="square and in colour"):
        figure(drawn, images=drawn.images[:6, :1])
    with pytest.raises(ValueError, match="label 5 is not one of the 5 classes"):
        figure(drawn, classes=drawn.classes[:5])
    with pytest.raises(ValueError, match="6 images and labels of shape"):
        figure(drawn, labels=drawn.labels[:5])
    with pytest.raises(ValueError, match="eps=31 is in 255ths"):
        figure(drawn, eps=31)


def test_names_are_shown_letter_by_letter(browser, drawn, tab):
    """In a notebook of another origin, twice on a page, as each holds a script."""
    networks = {name: ConvNet(6, width=2).eval() for name in NAMES[:2]}
    page = figure(drawn, classes=NAMES, networks=networks, caption="<i>")._repr_mimebundle_()
    frame = in_a_frame(tab, 2 * page["text/html"])
    bars = frame.locator("live-attack").first.locator(".live-bars li > :first-child")
    assert [text.strip() for text in bars.all_inner_texts()] == [
        live.visible(name) for name in NAMES
    ]
    assert frame.locator(".live-networks label").first.inner_text() == NAMES[0]
    assert frame.locator("figcaption").first.inner_text() == "<i>"


def in_a_frame(tab, page):
    tab.set_content('<iframe sandbox="allow-scripts" width="700" height="900"></iframe>')
    source = "page => document.querySelector('iframe').srcdoc = page"
    tab.evaluate(source, "<!doctype html>" + page)
    frame = tab.frame_locator("iframe")
    for number in range(page.count("<live-attack>")):
        frame.locator("live-attack[data-ready]").nth(number).wait_for()
    return frame


def test_each_figure_of_a_notebook_works_for_itself(tab, drawn):
    page = figure(drawn)._repr_mimebundle_()["text/html"]
    first, second = in_a_frame(tab, 2 * page).locator("live-attack").all()
    before = first.locator(".live-bars").inner_text()
    second.locator("[name=network]").nth(1).check()
    second.locator("[name=image]").nth(3).check()
    second.locator(".live-true", has_text="plane").wait_for()
    assert first.locator(".live-bars").inner_text() == before


@pytest.fixture(scope="module")
def twins():
    return {
        name: ccnotes.runs(run)[0].model(TWINS[run]).eval()
        for name, run in zip(("standard", "robust"), TWINS, strict=True)
    }


def first_wrong(model, x, y):
    """The first stop of the slider at which torch's network is wrong."""
    for half in range(61):
        with torch.no_grad():
            said = model(pgd(model, x, y, attack_of(half / 2))).argmax(1) if half else y
        if said != y:
            return half / 2
    raise AssertionError("never wrong")


def says(figure, pattern):
    """The radius of the line that says where the network was fooled, once it is there."""
    line = figure.locator(".live-fooled").filter(has_text=re.compile(pattern))
    line.wait_for()
    return float(re.match(r"Fooled at ([\d.]+)/255", line.inner_text())[1])


def test_where_it_is_wrong_the_figure_says_since_when_and_what_to_try_next(tab, drawn, twins):
    page = figure(drawn, networks=twins)._repr_mimebundle_()["text/html"]
    live_figure = in_a_frame(tab, page).locator("live-attack")
    slider, line = live_figure.get_by_role("slider"), live_figure.locator(".live-fooled")
    assert line.inner_text() == ""
    live_figure.locator("[name=image]").nth(3).check()
    slider.press("End")
    standard = says(live_figure, r"^Fooled at [\d.]+/255\. Now try the robust network\.$")
    live_figure.locator("[name=network]").nth(1).check()
    robust = says(live_figure, r"^Fooled at [\d.]+/255: it took more\.$")
    x, y = to_float(drawn.images[3:4]), drawn.labels[3:4]
    for name, found in (("standard", standard), ("robust", robust)):
        # One stop apart at most, as the page has rounded weights.
        assert found == pytest.approx(first_wrong(twins[name], x, y), abs=live.STOP)
    slider.press("Home")
    live_figure.locator(".live-verdict[data-right=true]").wait_for()
    assert line.inner_text() == ""


def test_a_network_that_falls_no_later_is_not_praised(tab, drawn, twins):
    same = dict.fromkeys(("first", "second"), twins["standard"])
    page = figure(drawn, networks=same)._repr_mimebundle_()["text/html"]
    live_figure = in_a_frame(tab, page).locator("live-attack")
    live_figure.locator("[name=network]").nth(1).check()
    live_figure.get_by_role("slider").press("End")
    says(live_figure, r"^Fooled at [\d.]+/255: it took no more\.$")


def test_over_steps_each_press_is_one_and_the_curve_is_torch_s(tab, drawn, twins):
    """By button, by arrow key and by hand; the curve ends where the slider stands."""
    page = figure(drawn, networks=twins, eps=12, over="steps")._repr_mimebundle_()["text/html"]
    live_figure = in_a_frame(tab, page).locator("live-attack")
    slider, button = live_figure.get_by_role("slider"), live_figure.get_by_role("button")
    line = live_figure.locator("polyline.live-chosen")
    x, y = to_float(drawn.images[:1]), drawn.labels[:1]

    def check(network, steps):
        live_figure.locator(".live-value", has_text=re.compile(f"^step {steps}$")).wait_for()
        expected = []
        for n in range(steps + 1):
            adv = pgd(network, x, y, replace(attack_of(12), steps=n)) if n else x
            with torch.no_grad():
                expected.append(network(adv).softmax(1)[0, y].item())
        told = live_figure.locator("svg").and_(tab_label(steps + 1))
        told.wait_for()
        points = [point.split(",") for point in line.get_attribute("points").split()]
        assert [float(step) for step, _ in points] == list(range(steps + 1))
        # The page's weights have 12 bits.
        assert [1 - float(p) for _, p in points] == pytest.approx(expected, abs=0.1)

    def tab_label(count):
        pattern = f"^[^,]*(, [^,]*){{{count - 1}}}$"
        return live_figure.get_by_role("img", name=re.compile(pattern))

    check(twins["standard"], 0)
    button.click()
    check(twins["standard"], 1)
    slider.press("ArrowRight")
    check(twins["standard"], 2)
    live_figure.locator("[name=network]").nth(1).check()
    check(twins["robust"], 2)
    slider.press("End")
    check(twins["robust"], live.STEPS)
    assert button.inner_text() == "Start again"
    button.click()
    check(twins["robust"], 0)


@pytest.mark.usefixtures("unchecked")
def test_each_image_has_its_note(tab, drawn):
    notes = [drawn.named(image) for image in range(6)]
    page = figure(drawn, notes=notes)._repr_mimebundle_()["text/html"]
    assert notes[0] == "cabin: car's own; wheels: car and truck; the rest is clutter"
    live_figure = in_a_frame(tab, page).locator("live-attack")
    for image, note in enumerate(notes):
        live_figure.locator("[name=image]").nth(image).check()
        live_figure.locator(".live-note").filter(has_text=note).wait_for()
    with pytest.raises(ValueError, match="5 notes for 6 images: give one each, or none"):
        figure(drawn, notes=notes[:5])


@pytest.mark.parametrize("width", [330, 600, 700, 790])
def test_nothing_moves_whatever_is_chosen(browser, drawn, twins, width):
    """Neither for a longer name, a second line of a note, nor the line that says it is fooled."""
    notes = [drawn.named(image) for image in range(6)]
    tab = browser.new_page(viewport={"width": width, "height": 900})
    shown = figure(drawn, networks=twins, notes=notes)._repr_mimebundle_()["text/html"]
    tab.set_content("<!doctype html><style>body { margin: 0 }</style>" + shown)
    tab.locator("live-attack[data-ready]").wait_for()
    places = []
    for eps in ("0", "30"):
        tab.get_by_role("slider").fill(eps)
        for image in range(6):
            tab.locator("[name=image]").nth(image).check()
            tab.locator(".live-note").filter(has_text=notes[image]).wait_for()
            if eps == "30":
                tab.locator(".live-fooled").filter(has_text="Fooled at").wait_for()
            boxes = tab.locator("[type=range], .live-bars, .live-choices, figcaption").all()
            places.append([box.bounding_box()["y"] for box in boxes])
    tab.close()
    assert np.ptp(places, axis=0).max() < 0.1  # fractions of a pixel are the browser's rounding


def test_the_data_of_a_page_are_light(drawn):
    """Of a network two characters per weight; so no page of the book grows by more."""
    model = ConvNet(6, width=24)
    weights = sum(p.numel() for p in model.parameters())
    (data,) = re.findall(
        '<script class="live-data" type="application/json">(.+?)</script>',
        figure(drawn, networks={"one": model})._repr_mimebundle_()["text/html"],
    )
    assert json.loads(data)["size"] == 20
    pixels = figure(drawn).images.numel()
    assert len(data) < 2 * weights + 4 / 3 * pixels + 5000  # scales, biases, names
