"""Networks with swapped heads, each attacked itself, and heads trained anew."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ccnotes import records
from ccnotes.attacks import PGD
from ccnotes.data import Split, to_float
from ccnotes.evaluation import evaluate, features_of, measure
from ccnotes.experiments import dataset
from ccnotes.models import ConvNet
from ccnotes.records import run
from ccnotes.swaps import calibrated, swapped, with_head_anew
from tests.helpers import SMALL

ATTACK = PGD(eps=0.03, step_size=0.01, steps=3)
pytestmark = pytest.mark.usefixtures("no_published")


@pytest.fixture
def photos():
    generator = torch.manual_seed(0)
    images = torch.randint(256, (40, 3, 16, 16), generator=generator).byte()
    return Split(images=images, labels=torch.arange(40) % 4)


def test_swapped_heads_are_attacked_themselves_and_stand_in_their_places(photos):
    """Each of the four is evaluate() of the network put together by hand."""
    torch.manual_seed(0)
    first, second = (ConvNet(4, width=4).eval() for _ in range(2))
    found = swapped(first, second, photos, ATTACK, seed=3, precision="float32")
    for i, body in enumerate((first, second)):
        for j, head in enumerate((first, second)):
            hybrid = deepcopy(body)
            hybrid.head = head.head
            expected = evaluate(hybrid, photos.images, photos.labels, ATTACK, seed=3).robust
            assert found.accuracy[i, j] == expected.accuracy
            torch.testing.assert_close(found.loss[i, j], expected.loss)
            torch.testing.assert_close(found.cas[i, j], expected.cas)
            assert torch.equal(found.confusion[i, j], expected.confusion)
    assert (found.calibrated_loss < found.loss + 0.05).all()


def test_a_temperature_is_chosen_by_images_that_it_does_not_judge():
    """One half is sure and right, the other sure and wrong: the best for one is not for both."""
    labels = torch.tensor([0, 0, 1, 1] * 5).sort().values
    right = torch.arange(20) % 2 == 0  # the first half of each class's images in turn
    logits = F.one_hot(torch.where(right, labels, 1 - labels), 2) * 3.0
    assert calibrated(logits, labels) > F.cross_entropy(logits, labels)


def bright_and_dark(count, seed):
    """Class 0 is dark and class 1 bright, with noise, 0.2 of the pixel range apart."""
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 3, 8, 8, generator=torch.manual_seed(seed))
    images = (255 * (0.3 + 0.2 * labels.view(-1, 1, 1, 1) + 0.2 * noise)).byte()
    return Split(images=images, labels=labels)


def normalised(model):
    """With BatchNorm's statistics those of the images, as training leaves them."""
    for layer in model.body:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # means over all batches
    with torch.no_grad():
        for seed in range(5):
            model.train()(to_float(bright_and_dark(80, seed).images))
    return model


def test_a_head_anew_learns_from_the_features_that_there_are_and_changes_nothing_else():
    """Brightness is in the features of any network; the head that it had does not matter."""
    torch.manual_seed(0)
    model = normalised(ConvNet(2, width=8))
    e = replace(SMALL, attack=PGD(eps=0.01, step_size=0.005, steps=2), batch_size=20)
    with_head = deepcopy(model)
    with_head.head.weight.data.fill_(3.0)
    anew, same = (
        with_head_anew(m, bright_and_dark(80, 1), e, "float32") for m in (model, with_head)
    )
    before, after = model.state_dict(), anew.state_dict()
    assert {k for k in after if not torch.equal(after[k], before[k])} == {
        "head.weight",
        "head.bias",
    }
    assert torch.equal(anew.head.weight, same.head.weight)
    assert not anew.training
    test = bright_and_dark(60, 2)
    features = features_of(anew, test.images, test.labels, e.attack)
    assert measure(features, test.labels, anew.head).accuracy > 0.95


def test_a_head_anew_is_attacked_itself():
    """With no attack it is another one."""
    model, e = normalised(ConvNet(2, width=8)), replace(SMALL, batch_size=20)
    split = bright_and_dark(40, 1)
    robust, plain = (
        with_head_anew(model, split, each, "float32").head.weight
        for each in (e, replace(e, attack=PGD(eps=0), eval_eps=0.05))
    )
    assert not torch.equal(robust, plain)


def test_swaps_have_heads_trained_anew_on_held_out_images(monkeypatch):
    """On as many as the run had to train on, though it had fewer to validate on."""
    made, seen = run(replace(SMALL, validation_size=12)), []
    anew = records.afterwards.with_head_anew

    def watched(model, held_out, e, precision):
        seen.append(held_out)
        return anew(model, held_out, e, precision)

    monkeypatch.setattr(records.afterwards, "with_head_anew", watched)
    records.write_swaps(made)
    assert [len(split) for split in seen] == [24, 24]
    e, test = made.configuration, dataset(made.configuration).test
    for place, which in enumerate(("best", "last")):
        model = anew(made.model(which), seen[0], e, "float32")
        found = evaluate(model, test.images, test.labels, e.eval_attack, seed=e.seed).robust
        assert made.swaps["anew_accuracy"][place] == found.accuracy
        torch.testing.assert_close(made.swaps["anew_loss"][place], found.loss)
    assert made.swaps["anew_loss"][0] != made.swaps["anew_loss"][1]


def test_swaps_want_an_image_of_each_class():
    made = run(SMALL)
    for images in (-5, 5):
        with pytest.raises(ValueError, match=f"images={images} must be at least 6"):
            records.write_swaps(made, images=images)
    assert not (made.folder / "swaps.safetensors").exists()
