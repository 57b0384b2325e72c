"""The playground of the Gaussian model in a browser, against ccnotes.gaussian."""

import re
from itertools import product

import numpy as np
import pytest

from ccnotes import gaussian
from ccnotes.playground import SLIDERS, TOLD, Playground, told

# Mean, spread, radius as a share of half the mean, smoothing: usual ones, then corners of the
# sliders' ranges, each side of a threshold, and spreads so large that there is no threshold.
SETTINGS = [(1.0, 0.5, 0.4, 0.0), (1.0, 0.5, 0.4, 0.3), (0.7, 0.31, 0.05, 0.12)]
SETTINGS += [(1.0, 0.5, 0.71, 0.0), (1.0, 0.5, 0.72, 0.0), (1.0, 0.5, 0.79, 0.3)]
SETTINGS += [*product((0.2, 2.0), (0.05, 1.5), (0.0, 0.99), (0.0, 0.6))]


@pytest.fixture(scope="module")
def page():
    return Playground(caption="Drag <it>.")._repr_mimebundle_()["text/html"]


@pytest.fixture(scope="module")
def tab(browser, page):
    tab = browser.new_page(viewport={"width": 790, "height": 900})
    tab.set_content(f"<!doctype html><body style='margin: 0'>{page}")
    yield tab
    tab.close()


def expected(mu, sigma, share, beta):
    """What the figure says, by name, from the formulas of the chapter's module."""
    eps = share * mu / 2
    w1, w2 = gaussian.optimal_weights(mu, sigma, eps, 1.0, beta)
    best = gaussian.best_ratio(mu, sigma, eps)
    spread = sigma / np.sqrt(np.pi)  # gaussian.threshold refuses where there is none
    at = {"chosen": w2 / w1, "best": best}
    accuracy, top = (gaussian.robust_accuracy(1.0, t, mu, sigma, eps) for t in at.values())
    radii = {"threshold": (mu - spread) / 2, "smoothed": (mu - (1 - beta) * spread) / 2}
    return {"share": eps, **at, **radii, "accuracy": accuracy, "top": top}


def shown(tab):
    values = "all => Object.fromEntries(all.map(e => [e.dataset.name, [+e.value, e.innerText]]))"
    return tab.locator("data").evaluate_all(values)


def choose(tab, setting):
    for name, value in zip(SLIDERS, setting, strict=True):
        tab.locator(f"[name={name}]").fill(f"{value:g}")


@pytest.mark.parametrize("setting", SETTINGS)
def test_page_and_package_agree(tab, setting):
    choose(tab, setting)
    found = shown(tab)
    for name, value in expected(*setting).items():
        assert found[name][0] == pytest.approx(value, abs=1e-6), name
        said = "none" if "threshold smoothed".count(name) and value <= 0 else f"{value:.3f}"
        assert found[name][1] == said
    kept = "kept" if expected(*setting)["chosen"] > 0 else "dropped"
    assert f"Cross-class features {kept}" in tab.locator(".play-verdict").inner_text()


@pytest.mark.parametrize("rivals", ["one", "all"])
def test_accuracy_agrees_at_every_ratio_and_distance(tab, rivals):
    """Where a tail of the normal distribution and Owen's T are near 0, near 1, and between."""
    ratios, spreads = np.linspace(0, 5, 26), [0.02, 0.1, 0.3, 1, 3, 30]
    found = tab.evaluate(
        """([ratios, spreads, rivals]) => spreads.map(sigma => ratios.map(
            ratio => gaussianPlayground.robustAccuracy(ratio, 1, sigma, 0.2, rivals)))""",
        [ratios.tolist(), spreads, rivals],
    )
    sigma = np.array(spreads)[:, None]
    expected = gaussian.robust_accuracy(1.0, ratios, 1.0, sigma, 0.2, rivals)
    np.testing.assert_allclose(found, expected, atol=1e-9)  # of a quadrature of 32 nodes


def points(tab, name):
    """A drawn line in the units of its panel, whose corners the lines of its grid give."""
    return tab.locator(f"[data-part={name}]").evaluate(
        """line => line.getAttribute('points').split(' ').map(point => {
            const [x, y] = point.split(',').map(Number), [w, h] = [370 - 48, 286 - 68];
            return [(x - 48) / w, (286 - y) / h];
        })"""
    )


def test_lines_are_drawn_where_the_model_has_them(tab):
    setting = mu, sigma, share, beta = 1.0, 0.5, 0.4, 0.3
    choose(tab, setting)
    for name, rivals in (("both", "all"), ("one", "one")):
        x, y = np.array(points(tab, name)).T
        accuracy = gaussian.robust_accuracy(1.0, 1.5 * x, mu, sigma, share * mu / 2, rivals)
        np.testing.assert_allclose(0.3 + 0.7 * y, accuracy, atol=1e-3)  # of hundredths of a pixel
    radii = np.linspace(0, 0.495, 34) * mu
    for name, weight, smoothing in (("w1", 0, beta), ("w2", 1, beta), ("plain", 1, 0)):
        drawn = np.interp(2 * radii / mu, *np.array(points(tab, name)).T)
        found = gaussian.optimal_weights(mu, sigma, radii, 1.0, smoothing)[weight]
        np.testing.assert_allclose(drawn, found / mu, atol=1e-3)


def place(tab, name):
    x, y = map(
        float,
        re.findall(r"[\d.]+", tab.locator(f"[data-part=mark-{name}]").get_attribute("transform")),
    )
    return (x - 48) / 322, (286 - y) / 218


def test_marks_stand_on_their_lines(tab):
    setting = 1.0, 0.5, 0.4, 0.3
    choose(tab, setting)
    found = expected(*setting)
    for name, accuracy in (("chosen", "accuracy"), ("best", "top")):
        at = found[name] / 1.5, (found[accuracy] - 0.3) / 0.7
        assert place(tab, name) == pytest.approx(at, abs=1e-3)
    w1, w2 = gaussian.optimal_weights(1.0, 0.5, 0.2, 1.0, 0.3)
    assert place(tab, "w1") == pytest.approx((0.4, w1), abs=1e-3)
    assert place(tab, "w2") == pytest.approx((0.4, w2), abs=1e-3)


@pytest.mark.parametrize(
    ("mu", "sigma", "beta", "said"),
    [(1.0, 0.5, 0.0, "ε₀ = 0.359"), (1.0, 0.5, 0.3, "ε₁ = 0.401"), (0.4, 1.5, 0.0, None)],
)
def test_the_threshold_is_marked_where_the_weight_reaches_0_or_nowhere(tab, mu, sigma, beta, said):
    choose(tab, (mu, sigma, 0.4, beta))
    line, name = (tab.locator(f"[data-part=threshold{end}]") for end in ("", "-name"))
    if said is None:  # sigma / sqrt(pi) is above mu
        assert line.get_attribute("visibility") == name.get_attribute("visibility") == "hidden"
    else:
        assert line.get_attribute("visibility") == name.get_attribute("visibility") == "visible"
        assert name.text_content() == said
        radius = gaussian.threshold(mu, sigma, beta)
        foot, top = points(tab, "threshold")
        assert foot == pytest.approx((2 * radius / mu, 0), abs=1e-3)  # hundredths of a pixel
        assert top == pytest.approx((2 * radius / mu, 1), abs=1e-3)


@pytest.mark.parametrize("name", SLIDERS)
def test_each_slider_moves_by_keyboard_and_by_mouse(tab, name):
    choose(tab, [start for *_, start in SLIDERS.values()])
    slider = tab.get_by_role("slider", name=SLIDERS[name][0])
    setting = {key: start for key, (*_, start) in SLIDERS.items()}
    for move in (
        lambda: slider.press("ArrowRight"),
        lambda: slider.click(position={"x": 99, "y": 9}),
    ):
        before = shown(tab)
        move()
        setting[name] = float(slider.input_value())
        after = shown(tab)
        assert after != before
        for key, value in expected(*setting.values()).items():
            assert after[key][0] == pytest.approx(value, abs=1e-6), key


def test_nothing_moves_as_numbers_and_verdicts_change(tab):
    for width in (790, 342):
        tab.set_viewport_size({"width": width, "height": 900})
        heights = set()
        for setting in SETTINGS[::3]:
            choose(tab, setting)
            heights.add(tab.locator("gaussian-playground").evaluate("e => e.offsetHeight"))
        assert len(heights) == 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.set_viewport_size({"width": 790, "height": 900})


def test_its_type_has_12_pixels_and_its_panels_fill_the_column(tab):
    one, other = (svg.bounding_box() for svg in tab.locator("svg").all())
    assert one["y"] == other["y"]
    assert other["x"] + other["width"] - one["x"] >= 600
    assert 13 * one["width"] / 380 >= 12


def test_what_it_says_is_spoken_once_the_reader_rests(tab):
    choose(tab, (1.0, 0.5, 0.9, 0.0))
    tab.get_by_role("status").get_by_text("Cross-class features dropped").wait_for()


def test_without_scripts_a_sentence_says_the_first_state(browser, page):
    tab = browser.new_page(java_script_enabled=False)
    tab.set_content(page)
    assert tab.get_by_text(told()).is_visible()
    assert not tab.get_by_role("slider").count()
    assert tab.locator("figcaption").inner_text() == "Drag <it>."
    tab.close()


def test_all_that_is_told_has_a_place():
    first = expected(*(start for *_, start in SLIDERS.values()))
    assert set(TOLD) < set(first)
