"""The moving figures of chapter 2 compute in the page; what they compute is checked here."""

import re

import numpy as np
import pytest
import vl_convert

from ccnotes import gaussian, moving, plots_gaussian

SETTINGS = [(1.0, 0.5, 1.0), (2.0, 1.3, 0.4)]  # mu, sigma, weight decay
each_setting = pytest.mark.parametrize("setting", SETTINGS)
FUNCTIONS = {"max": np.maximum, "min": np.minimum, "pow": np.power, "floor": np.floor}


class Datum(dict):
    __getattr__ = dict.__getitem__


def calculated(chart, **datum):
    """What a chart's expressions give, in order; where Python reads them as Vega does."""
    datum = Datum(datum)
    for step in chart["transform"]:
        if "calculate" in step and "?" not in step["calculate"]:
            names = {**FUNCTIONS, **datum, "datum": datum}
            datum[step["as"]] = eval(step["calculate"], {"__builtins__": {}}, names)
    return datum


def radii(mu):
    return mu * np.arange(0, 0.495, 0.01)


@each_setting
def test_the_diamond_stands_where_the_margin_loss_is_least(setting):
    mu, sigma, reg = setting
    layers = plots_gaussian.loss_surface(*setting).to_dict()["layer"]
    dots = [layer for layer in layers if layer["mark"].get("shape") == "diamond"]
    (dot,) = (calculated(layer, eps=radii(mu)) for layer in dots)
    w1, w2 = gaussian.optimal_weights(mu, sigma, radii(mu), reg)
    np.testing.assert_allclose(dot.w1, w1)
    np.testing.assert_allclose(dot.w2, w2, atol=1e-12)  # 0 but for rounding, beyond the threshold


@each_setting
@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_the_heat_map_is_the_loss_above_its_least(setting, share):
    mu, sigma, reg = setting
    heat = plots_gaussian.loss_surface(*setting).to_dict()["layer"][0]
    found = calculated(heat, k=np.arange(28 * 28), eps=share * mu)
    middle = (found.w1_to - found.w1) / 1.1 / 2  # cells overlap by a tenth
    args = (found.w1 + middle, found.w2 + middle, mu, sigma, share * mu, reg)
    least = gaussian.margin_loss(
        *gaussian.optimal_weights(mu, sigma, share * mu, reg), mu, sigma, share * mu, reg
    )
    np.testing.assert_allclose(found.excess, gaussian.margin_loss(*args) - least, atol=1e-9)


@each_setting
def test_the_dashed_line_is_the_way_of_the_diamond(setting):
    mu, sigma, reg = setting
    spec = plots_gaussian.loss_surface(*setting).to_dict()
    (ends,) = [rows for rows in spec["datasets"].values() if len(rows) == 2]
    start = gaussian.optimal_weights(mu, sigma, 0.0, reg)
    reached = gaussian.optimal_weights(mu, sigma, gaussian.threshold(mu, sigma), reg)
    np.testing.assert_allclose([[p["w1"], p["w2"]] for p in ends], [start, reached], atol=1e-12)
    assert f"ε₀ = {gaussian.threshold(mu, sigma):.3g}" in spec["description"]
    (named,) = [rows for rows in spec["datasets"].values() if rows[0].get("name") == "ε₀"]
    np.testing.assert_allclose([named[0]["w1"], named[0]["w2"]], reached, atol=1e-12)


@each_setting
def test_the_slider_of_the_radius_says_the_threshold(setting):
    mu, sigma, _ = setting
    for chart in (
        plots_gaussian.loss_surface(*setting),
        plots_gaussian.accuracy_against_ratio(mu, sigma),
    ):
        (slider,) = [p["bind"]["name"] for p in chart.to_dict()["params"] if "bind" in p]
        assert f"ε₀ = {gaussian.threshold(mu, sigma):.3g}" in slider


@each_setting
def test_accuracies_are_those_of_simulated_images(setting):
    mu, sigma, _ = setting
    table = plots_gaussian.accuracies(mu, sigma)
    for row, column in ((10, 20), (30, 60), (45, 0)):
        for name, rivals in (("one", "one"), ("both", "all")):
            ratio = plots_gaussian.RATIOS[column]
            mean, error = gaussian.simulated_accuracy(
                1.0, ratio, mu, sigma, radii(mu)[row], rivals, num=20_000
            )
            # Four standard errors and the rounding to 1e-4: passed by chance once in 16,000.
            assert abs(table[name][row][column] / 1e4 - mean) < 4 * error + 1e-4


@each_setting
def test_peak_and_choice_lie_on_the_curve_against_both_rivals(setting):
    mu, sigma, _ = setting
    for row in plots_gaussian.accuracies(mu, sigma).itertuples():
        curve = np.array(row.both) / 1e4
        if row.best < plots_gaussian.RATIOS[-1]:  # else the peak is not on the grid
            # Brute force over the grid; flat at the peak, so a step to its side loses little.
            top = curve[0] + row.gain / 100
            np.testing.assert_allclose(top, curve.max(), atol=2e-4)
            step = plots_gaussian.RATIOS[1]
            near = np.abs(plots_gaussian.RATIOS - row.best) <= 2 * step
            assert curve[near].max() > curve.max() - 1e-4
        at = np.interp(row.at, plots_gaussian.RATIOS, curve)
        chosen = curve[0] + row.won / 100
        np.testing.assert_allclose(chosen, at, atol=3e-4)  # between grid points the curve bends
        # Theorem 1 by hand: w2 / w1 = (2 eps0 - 2 eps) / (mu - 2 eps), and 0 from eps0 on.
        eps0 = gaussian.threshold(mu, sigma)
        by_hand = max(0, 2 * eps0 - 2 * row.eps) / (mu - 2 * row.eps)
        assert abs(row.at - by_hand) < 1e-4


@each_setting
def test_every_stop_of_the_slider_shows_one_row(setting):
    mu, sigma, _ = setting
    spec = plots_gaussian.accuracy_against_ratio(mu, sigma).to_dict()
    (bind,) = [p["bind"] for p in spec["params"] if "bind" in p]
    filters = {
        step["filter"]
        for layer in spec["layer"]
        for step in layer.get("transform", [])
        if "filter" in step
    }
    (shown,) = filters
    (rows,) = [rows for rows in spec["datasets"].values() if "both" in rows[0]]
    stops = np.arange(bind["min"], bind["max"] + bind["step"] / 2, bind["step"])
    eps = Datum(eps=np.array([row["eps"] for row in rows]))
    for stop in stops:
        names = {"abs": np.abs, "datum": eps, "radius": stop}
        assert eval(shown, {"__builtins__": {}}, names).sum() == 1


@each_setting
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.65])
def test_smoothed_weights_are_those_of_both_forms(setting, beta):
    mu, sigma, reg = setting
    layers = plots_gaussian.smoothed_weights(*setting).to_dict()["layer"]
    eps = radii(mu)
    lines = [calculated(layer, eps=eps, beta=beta) for layer in layers[:3]]
    plain = gaussian.optimal_weights(mu, sigma, eps, reg)[1]
    form1 = gaussian.optimal_weights(mu, sigma, eps, reg, beta)[1]
    form2 = gaussian.form2_weights(mu, sigma, eps, reg, beta)[1]
    for line, expected in zip(lines, (plain, form1, form2), strict=True):
        np.testing.assert_allclose(line.w2, expected, atol=1e-12)
    ends = [calculated(layer, beta=beta).eps for layer in layers[3:]]
    expected = [gaussian.threshold(mu, sigma), gaussian.threshold(mu, sigma, beta)]
    np.testing.assert_allclose(ends, [*expected, gaussian.form2_threshold(mu, sigma, beta)])


def test_triangles_stand_on_the_axis_and_hide_no_number_below_it():
    spec = plots_gaussian.smoothed_weights(*SETTINGS[0]).to_dict()
    picture = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    points = re.findall(r'description="point"[^>]*translate\(\S+,(\S+)\)" d="([^"]*)"', picture)
    assert len(points) == 3
    for y, shape in points:
        corners = [float(n) for n in re.findall(r"[-\d.]+,([-\d.]+)", shape)]
        assert float(y) + max(corners) <= 260 + 1  # the panel's height, and half a line
        assert float(y) + max(corners) >= 260 - 3


@pytest.mark.parametrize(
    "chart",
    [
        plots_gaussian.loss_surface(*SETTINGS[0]),
        plots_gaussian.accuracy_against_ratio(*SETTINGS[0][:2]),
        plots_gaussian.smoothed_weights(*SETTINGS[0]),
    ],
    ids=["loss_surface", "accuracy_against_ratio", "smoothed_weights"],
)
def test_vega_draws_them_and_they_have_a_text(chart):
    spec = chart.to_dict()
    picture = vl_convert.vegalite_to_svg(spec, vl_version=moving.VEGA_LITE)
    assert "NaN" not in picture
    assert picture.count("<path") > 10
    assert len(spec["description"]) > 100
