"""What PGD and AutoAttack leave of a network's accuracy, and when neither may be trusted."""

import sys
import warnings

import pytest
import torch
from torch import nn

from ccnotes import robustness as room
from ccnotes.attacks import PGD
from ccnotes.data import to_float
from ccnotes.evaluation import evaluate
from ccnotes.models import ConvNet
from ccnotes.planted import Planted, planted
from ccnotes.robustness import Robustness, autoattackers, doubt, inside, robustness

SMALL = Planted(
    num_classes=4, image_size=8, pattern_size=6, class_amplitude=0.6, group_amplitude=0.1
)
LINF, L2 = PGD(eps=0.04, step_size=0.01), PGD(norm="l2", eps=0.3, step_size=0.06)
pytestmark = [
    pytest.mark.usefixtures("few_queries"),
    pytest.mark.filterwarnings("ignore:do not trust"),  # of attacks that are none
]


def linear(classes):
    """Of rows that sum to 0, so that the images' mean grey decides nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes, bias=False)).eval()
    model[1].weight.data -= model[1].weight.data.mean(1, keepdim=True)
    return model


def mid_grey(count, classes):
    """Images from which no ball of these radii reaches the ends of the pixel range."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(90, 166, (count, 3, 8, 8), generator=generator).byte()
    return images, torch.randint(classes, (count,), generator=generator)


@pytest.fixture(scope="module")
def trained():
    """A network that knows planted images of four classes, and images to attack it on."""
    torch.manual_seed(0)
    model, drawn = ConvNet(4, width=4), planted(160, SMALL, seed=0, split="train")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(to_float(drawn.images)), drawn.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.zero_grad()
    test = planted(24, SMALL, seed=0, split="test")
    return model, test.images, test.labels


def returns(monkeypatch, change):
    """AutoAttack's attacks as functions of the images and the attack's name; who is called."""
    called = []

    def by_autoattack(network, x, y, attack, seed, name):
        called.append((name, len(x)))
        return change(x, name)

    monkeypatch.setattr(room, "by_autoattack", by_autoattack)
    return called


@pytest.mark.parametrize(
    "attack", [PGD(eps=4e-3, step_size=1e-3), PGD(norm="l2", eps=0.05, step_size=0.01)]
)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_of_a_linear_network_exactly_the_images_remain_whose_margins_are_wider(attack, classes):
    """The dual norm of the difference of rows, times the radius, is what an attack can take."""
    pytest.importorskip("pyautoattack")
    model, (images, labels) = linear(classes), mid_grey(40, classes)
    labels = model(to_float(images)).argmax(1).where(torch.arange(40) < 36, labels)
    weight, logits = model[1].weight.detach(), model(to_float(images)).detach()
    rows = weight[labels][:, None] - weight
    dual = rows.abs().sum(2) if attack.norm == "linf" else rows.norm(dim=2)
    margins = (logits.gather(1, labels[:, None]) - logits - attack.eps * dual).scatter(
        1, labels[:, None], torch.inf
    )
    clear = (margins.amin(1).abs() > 0.002).nonzero()[:, 0]  # where rounding decides nothing
    found = robustness(model, images[clear], labels[clear], attack)
    assert torch.equal(found.recognised[-1], margins.amin(1)[clear] > 0)
    assert 0 < found.accuracy < found.recognised[0].float().mean()


@pytest.mark.parametrize("attack", [LINF, L2], ids=lambda a: a.norm)
def test_pgd_never_leaves_less_than_autoattack(trained, attack):
    pytest.importorskip("pyautoattack")
    model, images, labels = (value if i == 0 else value[:12] for i, value in enumerate(trained))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = robustness(model, images, labels, attack)
    table = found.table(("a", "b", "c", "d"))
    assert 0 < found.autoattack < table["all"]["clean"]
    assert (table.loc[["PGD-10", "PGD-50"]] >= table.loc["Square"]).all(axis=None)
    mean = table[["a", "b", "c", "d"]].mean(axis=1)  # there are as many images of each class
    assert mean.tolist() == pytest.approx(table["all"].tolist())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(w.grad is None and w.requires_grad for w in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_attack_that_was_stopped_goes_on_with_the_batch_that_it_had_begun(
    trained, monkeypatch, tmp_path
):
    model, images, labels = trained

    def shifts(x, name):
        return x + 0.03 * (name == "fab-t")

    called = returns(monkeypatch, shifts)
    whole = robustness(model, images, labels, LINF, batch_size=10)
    assert len(called) == 12  # four attacks on each of three batches

    def stops(x, name):
        if len(stopped) == 6:
            raise KeyboardInterrupt
        return shifts(x, name)

    stopped = returns(monkeypatch, stops)
    with pytest.raises(KeyboardInterrupt):
        robustness(model, images, labels, LINF, batch_size=10, keep=tmp_path)
    called = returns(monkeypatch, shifts)
    resumed = robustness(model, images, labels, LINF, batch_size=10, keep=tmp_path)
    assert torch.equal(resumed.recognised, whole.recognised)
    assert len(called) == 8  # of the last two batches
    robustness(model, images, labels, LINF, batch_size=10, keep=tmp_path)
    assert len(called) == 8


@pytest.mark.parametrize("other", ["weights", "labels", "eps", "seed"])
def test_batches_of_another_question_are_not_taken(trained, monkeypatch, tmp_path, other):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    robustness(model, images, labels, LINF, keep=tmp_path)
    changed = {"model": model, "labels": labels, "attack": LINF, "seed": 0}
    if other == "weights":
        changed["model"] = ConvNet(4, width=4)
    elif other == "labels":
        changed["labels"] = labels.roll(1)
    elif other == "eps":
        changed["attack"] = PGD(eps=0.03, step_size=0.01)
    else:
        changed["seed"] = 1
    robustness(images=images, keep=tmp_path, **changed)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_of_batches_counts_for_nothing(trained, monkeypatch, tmp_path):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    before = robustness(model, images, labels, LINF, keep=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-9])
    again = robustness(model, images, labels, LINF, keep=tmp_path)
    assert torch.equal(again.recognised, before.recognised)


def test_images_outside_the_ball_or_the_pixel_range_do_not_count(trained, monkeypatch):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: torch.zeros_like(x))
    found = robustness(model, images, labels, LINF)
    assert torch.equal(found.recognised[-1], found.recognised[0])
    x = torch.full((3, 1, 2, 2), 0.98)
    adv = x + torch.tensor([0.015, 0.03, 0.0]).view(3, 1, 1, 1)
    assert inside(x, adv, LINF).tolist() == [True, False, True]
    assert inside(x, adv, PGD(norm="l2", eps=0.029)).tolist() == [False, False, True]


class Rounding(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((255 * x).round() / 255)


def test_vanishing_gradients_are_warned_of(trained, monkeypatch):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    with pytest.warns(UserWarning, match=r"do not trust .* have a gradient of exactly zero"):
        found = robustness(Rounding(model), images, labels, LINF)
    assert found.stuck == found.recognised[0].float().mean()


def test_more_steps_that_find_much_more_are_warned_of(trained, monkeypatch):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    short = PGD(eps=0.08, step_size=0.004, steps=4, random_start=False)
    with pytest.warns(UserWarning, match=r"PGD-20 leaves .* where PGD-4 leaves"):
        robustness(model, images, labels, short)


def test_an_attack_without_gradients_that_finds_more_is_warned_of(trained, monkeypatch):
    model, images, labels = trained
    strong = PGD(eps=0.5, step_size=1e-4, random_start=False)
    returns(monkeypatch, lambda x, name: x + 0.5 * (name == "square") * (0.5 - x).sign())
    with pytest.warns(UserWarning, match="Square, which needs no gradient, takes another"):
        robustness(model, images, labels, strong)


def test_a_sound_network_is_not_warned_of(trained, monkeypatch):
    model, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robustness(model, images, labels, PGD(eps=0.0, step_size=0.0))
        three = torch.ones(7, 24, dtype=torch.bool)
        three[2:, :3] = False  # of 24 that PGD-50 finds and PGD-10 does not
        names = ("clean", "PGD-10", "PGD-50", "APGD-CE", "APGD-T", "FAB-T", "Square")
        found = Robustness(attacks=names, recognised=three, labels=labels, stuck=0.0)
        doubt(found)


def test_images_too_small_for_square_in_the_l2_norm_are_refused(trained):
    model = trained[0]
    images, labels = torch.full((4, 3, 4, 4), 99).byte(), torch.arange(4)
    with pytest.raises(ValueError, match="images of 4 x 4 pixels are too small"):
        robustness(model, images, labels, L2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precisions_are_attacked_in_theirs(trained, monkeypatch, dtype):
    _, images, labels = trained
    returns(monkeypatch, lambda x, name: x)
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).to(dtype)
    found = robustness(body, images, labels, LINF)
    expected = body(to_float(images).to(dtype)).argmax(1) == labels
    assert torch.equal(found.recognised[0], expected)


def test_autoattack_is_asked_for_in_one_line_where_it_is_missing(trained, monkeypatch):
    model, images, labels = trained
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ccnotes\[autoattack\]'"):
        robustness(model, images, labels, PGD(eps=0.0, step_size=0.0))


def test_few_classes_have_few_targets():
    assert autoattackers(4) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert autoattackers(3) == ["apgd-ce", "apgd-dlr", "fab", "square"]
    assert autoattackers(2) == ["apgd-ce", "fab", "square"]


@pytest.mark.usefixtures("unchecked")
def test_evaluate_says_where_autoattack_is(trained):
    with pytest.raises(ValueError, match=r"attack='autoattack' has no radius.*robustness\("):
        evaluate(*trained, attack="autoattack")
