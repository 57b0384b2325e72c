import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.ops import stochastic_depth

from ccnotes.attacks import PGD, pgd
from ccnotes.attribution import cas, class_attribution, class_similarity
from ccnotes.data import Split
from ccnotes.evaluation import (
    batches,
    evaluate,
    features_of,
    fitting,
    measure,
    neural_collapse,
    numbers,
    radii,
    stage_similarity,
)
from ccnotes.experiments import dataset
from ccnotes.models import ConvNet, Headed
from ccnotes.networks import PreActResNet, network_called
from ccnotes.records import run
from tests.helpers import SMALL

ATTACK = PGD(eps=0.05, step_size=0.0125, steps=3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ConvNet(4, width=4).eval()


@pytest.fixture
def photos():
    torch.manual_seed(1)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    return Split(images=images, labels=torch.arange(40) % 4)


def linear():
    """A network of one linear layer for the photos, wrapped."""
    torch.manual_seed(0)
    return Headed(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))


def test_what_is_measured_agrees_with_a_loop_over_classes():
    """By hand from the logits, for features whose head has a bias."""
    torch.manual_seed(0)
    features, labels, head = torch.rand(21, 5), torch.arange(21) % 3, nn.Linear(5, 3)
    found = measure(features, labels, head)
    with torch.no_grad():
        logits = features @ head.weight.T + head.bias
        chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert found.loss.item() == pytest.approx(-chances[range(21), labels].log().mean().item())
    right = logits.argmax(1) == labels
    assert found.accuracy.item() == pytest.approx(right.float().mean().item())
    for c in range(3):
        own = labels == c
        assert found.class_accuracy[c].item() == pytest.approx(right[own].float().mean().item())
        torch.testing.assert_close(found.class_means[c], features[own].mean(0))
    attribution = class_attribution(features, labels, head.weight.detach())
    torch.testing.assert_close(found.similarity, class_similarity(attribution))
    assert found.cas == cas(found.similarity)
    assert found.instance_cas == cas(found.instance_similarity)
    assert (found.correct, found.cas_draws) == (None, None)
    assert measure(features, labels, head, draws=3).correct.tolist() == right.int().tolist()


def test_neural_collapse_agrees_with_its_definition():
    """With the two covariance matrices, a pseudo-inverse and a loop over pairs of classes."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = random.normal(size=(3, 7))[labels] + 0.5 * random.normal(size=(90, 7))
    means = np.stack([features[labels == c].mean(0) for c in range(3)])
    within = (features - means[labels]).T @ (features - means[labels]) / 90
    centred = means - means.mean(0)
    between = centred.T @ centred / 3
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    nc2 = np.mean([abs(unit[i] @ unit[j] + 1 / 2) for i in range(3) for j in range(3) if i != j])
    found = neural_collapse(torch.tensor(features).float(), torch.tensor(labels), 3)
    assert found.nc1.item() == pytest.approx(nc1, rel=1e-4)
    assert found.nc2.item() == pytest.approx(nc2, abs=1e-5)


def test_neural_collapse_is_zero_where_it_is_complete():
    labels = torch.arange(20) % 4
    nc1, nc2 = neural_collapse(3 * torch.eye(4)[labels] + 1, labels, 4)
    assert nc1.item() == pytest.approx(0, abs=1e-10)
    assert nc2.item() == pytest.approx(0, abs=1e-6)


def test_evaluation_is_of_the_images_as_they_are_and_of_attacked_ones(network, photos):
    """Against an attack and a forward pass written out, of all images at once."""
    found = evaluate(network, photos.images, photos.labels, ATTACK, seed=3)
    x = (photos.images / 255).contiguous(memory_format=torch.channels_last)
    adv = pgd(network, x, photos.labels, ATTACK, torch.Generator().manual_seed(3))
    for kind, images in (("clean", x), ("robust", adv)):
        with torch.no_grad():
            logits = network(images)
        loss = F.cross_entropy(logits, photos.labels).item()
        # The same sums in other memory layouts: float32's rounding.
        assert getattr(found, kind).loss.item() == pytest.approx(loss, rel=1e-5)
    assert found.robust.loss > found.clean.loss + 0.01


def test_records_names_are_those_of_the_fields_clean_first(network, photos):
    found = evaluate(network, photos.images, photos.labels, ATTACK, draws=2)
    names = "accuracy loss cas instance_cas nc1 nc2 nc3 class_accuracy class_means confusion "
    names += "similarity instance_similarity head_similarity centred_similarity "
    names += "blind_similarity correct cas_draws"
    expected = [f"{kind}_{name}" for kind in ("clean", "robust") for name in names.split()]
    assert list(found.flat()) == expected
    assert found.flat()["robust_cas"] is found.robust.cas
    without = evaluate(network, photos.images, photos.labels, ATTACK)
    assert list(without.flat()) == [n for n in expected if not n.endswith(("correct", "draws"))]


def test_one_seed_gives_one_evaluation_and_another_seed_another(network, photos):
    def loss(seed):
        return evaluate(network, photos.images, photos.labels, ATTACK, seed=seed).robust.loss

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


@pytest.mark.parametrize("attack", [None, ATTACK])
def test_products_are_made_in_the_precision_asked_for(network, photos, attack):
    """Against autocast written out; bfloat16 keeps 8 bits, so it differs from float32."""
    x, found = (photos.images / 255).contiguous(memory_format=torch.channels_last), {}
    for precision in ("float32", "bfloat16"):
        found[precision] = features_of(
            network, photos.images, photos.labels, attack, seed=3, precision=precision
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            generator = torch.Generator().manual_seed(3)
            used = pgd(network, x, photos.labels, attack, generator) if attack else x
            expected = network.features(used).float()
        torch.testing.assert_close(found[precision], expected, atol=0, rtol=0)
    assert (found["bfloat16"] - found["float32"]).abs().max() > 1e-4
    assert found["bfloat16"].dtype == torch.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("precision", ["float16", "auto", torch.bfloat16])
def test_a_precision_that_is_not_ours_is_refused(network, photos, precision):
    with pytest.raises(ValueError, match=r"precision=.* is not one of 'float32', 'bfloat16'"):
        features_of(network, photos.images, photos.labels, precision=precision)


def test_radii_run_from_the_clean_images_through_the_attack_to_twice_its_radius(network, photos):
    found = radii(network, photos, ATTACK)
    usual = evaluate(network, photos.images, photos.labels, ATTACK)
    assert found.radius.tolist() == pytest.approx([0, 0.0125, 0.025, 0.05, 0.075, 0.1])
    for index, kind in ((0, usual.clean), (3, usual.robust)):
        assert found.cas[index] == pytest.approx(kind.cas.item(), abs=1e-5)
        assert found.accuracy[index].item() == pytest.approx(kind.accuracy.item())
    assert list(found.flat()) == ["radius", "radius_accuracy", "radius_cas"]
    assert found.flat()["radius_cas"] is found.cas


def test_radii_end_where_the_pixel_range_does(network, photos):
    """Beyond it an l-infinity attack has nothing more to win; l2 lengths have no such end."""
    wide = radii(network, photos, PGD(eps=0.75, step_size=0.75, steps=1))
    assert wide.radius.tolist() == [0, 0.1875, 0.375, 0.75, 1, 1]
    assert wide.cas[4] == wide.cas[5]
    long = radii(network, photos, PGD(norm="l2", eps=0.75, step_size=0.75, steps=1))
    assert long.radius.tolist() == [0, 0.1875, 0.375, 0.75, 1.125, 1.5]


def test_the_last_stage_gives_the_usual_similarity_and_earlier_ones_another(network, photos):
    found = stage_similarity(network, photos, ATTACK, seed=3)
    features = features_of(network, photos.images, photos.labels, ATTACK, seed=3)
    usual = class_attribution(features, photos.labels, network.head.weight.detach())
    torch.testing.assert_close(found[-1], class_similarity(usual), atol=1e-5, rtol=0)
    assert found.shape == (3, 4, 4)
    assert (found[0] - found[-1]).abs().max() > 0.01


def test_draws_and_right_answers_come_where_they_are_wanted(network, photos):
    few = evaluate(network, photos.images, photos.labels, ATTACK)
    all_ = evaluate(network, photos.images, photos.labels, ATTACK, draws=200)
    assert (few.clean.correct, few.robust.cas_draws) == (None, None)
    right = all_.robust.correct.float().mean()
    assert right.item() == pytest.approx(few.robust.accuracy.item())
    low, high = all_.robust.cas_draws.quantile(torch.tensor([0.001, 0.999])).tolist()
    assert low < few.robust.cas.item() < high


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong", [lambda x: x / 255, lambda x: x.float(), lambda x: x.short(), lambda x: x[0]]
)
def test_images_that_are_not_bytes_are_refused(network, photos, wrong):
    """Divided by 255 once more they would all be black."""
    message = r"where uint8 \(0 to 255\).*give \(255 \* images\).round\(\).byte\(\)"
    for ask in (features_of, lambda *given: evaluate(*given, ATTACK)):
        with pytest.raises(ValueError, match=message):
            ask(network, wrong(photos.images), photos.labels)


def test_images_in_0_to_1_that_were_made_bytes_are_refused(network, photos):
    with pytest.raises(ValueError, match=r"largest byte is 1 of 255.*\(255 \* images\)"):
        evaluate(network, (photos.images / 255).byte(), photos.labels, ATTACK)


@pytest.mark.usefixtures("unchecked")
def test_as_many_labels_as_images_are_wanted_and_one_at_least(network, photos):
    for count in (39, 0):
        with pytest.raises(ValueError, match=r"give one label per image"):
            list(batches(network, photos.images[: count and 40], photos.labels[:count], None, 0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_width_give_the_same(network, photos, dtype):
    expected = evaluate(network, photos.images, photos.labels, ATTACK, draws=3).flat()
    found = evaluate(network, photos.images, photos.labels.to(dtype), ATTACK, draws=3).flat()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=0)


@pytest.mark.usefixtures("unchecked")
def test_labels_that_the_head_has_no_class_for_are_named(network, photos):
    for labels, label in (
        (photos.labels + 1, "4"),
        (photos.labels - 1, "-1"),
        (photos.labels / 1, "0.0"),
    ):
        for attack in (None, ATTACK):
            with pytest.raises(ValueError, match=rf"label {label} is not one of the 4 classes"):
                features_of(network, photos.images, labels, attack)


def test_a_head_of_many_more_classes_than_the_data_is_answered_by_counts(photos):
    wide = Headed(nn.Sequential(nn.Flatten(), nn.Linear(768, 1000)))
    with pytest.raises(ValueError, match=r"class \[4, 5, 6 and 993 more\].* 4 of the head's 1000"):
        evaluate(wide, photos.images, photos.labels, ATTACK)


class Maps(ConvNet):
    """What it calls features are maps, as torchvision's Swin transformers have them."""

    def features(self, x):
        return self.body(x)


@pytest.mark.usefixtures("unchecked")
def test_a_network_without_features_and_head_is_to_be_wrapped(photos):
    torchvision = pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=r"ResNet has no linear layer called head.*Headed\("):
        evaluate(torchvision.models.resnet18(), photos.images, photos.labels, ATTACK)
    with pytest.raises(ValueError, match=r"Maps have the shape \(40, 8, 4, 4\).*Headed\("):
        features_of(Maps(4, width=2), photos.images, photos.labels)


@pytest.mark.filterwarnings("ignore:.*gradient of exactly zero, or NaN")
def test_a_network_that_gives_nan_is_refused_and_the_weights_named(photos):
    broken = ConvNet(4, width=2)
    broken.body[4].weight.data[0] = torch.nan
    for attack in (None, ATTACK):
        with pytest.raises(ValueError, match=r"NaN or infinity for 40 of 40.* in body.4.weight"):
            features_of(broken, photos.images, photos.labels, attack)
    features = torch.ones(40, 768)
    features[3, 0] = torch.inf
    with pytest.raises(ValueError, match=r"for 1 of 40 images. Its weights are finite"):
        measure(features, photos.labels, linear().head)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_types_are_evaluated(photos, dtype):
    """As in float32: to eight bits of bfloat16, and better in float64."""
    torch.manual_seed(0)
    expected = evaluate(linear(), photos.images, photos.labels, ATTACK)
    for network in (Headed(linear().network.to(dtype)), linear().to(dtype)):
        found = evaluate(network, photos.images, photos.labels, ATTACK)
        assert found.clean.loss.item() == pytest.approx(expected.clean.loss.item(), rel=2e-2)
        assert found.robust.cas.item() == pytest.approx(expected.robust.cas.item(), rel=2e-2)
    own = ConvNet(4, width=2).to(dtype)
    assert evaluate(own, photos.images, photos.labels, ATTACK).clean.loss.isfinite()


def test_inference_mode_around_an_evaluation_changes_nothing(network, photos):
    expected = evaluate(network, photos.images, photos.labels, ATTACK).flat()
    stages = stage_similarity(network, photos, ATTACK)
    with torch.inference_mode():
        found = evaluate(network, photos.images, photos.labels + 0, ATTACK).flat()
        assert torch.equal(stage_similarity(network, photos, ATTACK), stages)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=0)


def test_evaluation_leaves_a_network_in_train_mode_as_it_was(photos):
    """Its BatchNorm, and a weight of spectral norm, which changes with each use in train mode."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten()]
    network = Headed(nn.Sequential(*body, spectral_norm(nn.Linear(392, 4)))).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    evaluate(network, photos.images, photos.labels, ATTACK)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


class Counting(ConvNet):
    """Knows how many images it was given at once."""

    def __init__(self):
        super().__init__(4, width=2)
        self.sizes = set()

    def features(self, x):
        self.sizes.add(len(x))
        return super().features(x)


@pytest.mark.parametrize(("side", "size"), [(4, 500), (45, 500), (64, 256), (224, 20)])
def test_large_images_come_in_smaller_batches(side, size):
    """As many as have 2^20 pixels, at most 500: by hand, 1048576 / 224^2 = 20.9."""
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(501, -1, -1, -1)
    x, y, _ = next(batches(Counting(), images, torch.arange(501) % 4, None, 0))
    assert (len(x), len(y)) == (size, size)


def test_an_image_larger_than_a_batch_comes_alone():
    images = torch.zeros(1, 3, 1025, 1024, dtype=torch.uint8).expand(2, -1, -1, -1)
    x, *_ = next(batches(Counting(), images, torch.tensor([0, 1]), None, 0))
    assert len(x) == 1


def test_the_size_of_batches_can_be_chosen_and_changes_nothing_but_memory(photos):
    network = Counting()
    few = evaluate(network, photos.images, photos.labels, ATTACK, batch_size=7)
    # Of four, and of two, it is asked whether it is random, or minds what shares its batch.
    assert network.sizes == {7, 5, 4, 2}
    all_ = evaluate(network, photos.images, photos.labels, ATTACK)
    for name, value in all_.flat().items():
        # Random starts do not depend on it; sums of float32 round otherwise.
        torch.testing.assert_close(few.flat()[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_images_is_refused(network, photos, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} must be at least 1"):
        evaluate(network, photos.images, photos.labels, ATTACK, batch_size=batch_size)


class Rounding(nn.Module):
    """Rounds its input to eight bits, which has no gradient, where images are light."""

    def __init__(self, network):
        super().__init__()
        self.network, self.head = network, network.head

    def features(self, x):
        light = x.mean((1, 2, 3), keepdim=True) > 0.5
        return self.network.features(torch.where(light, (x * 255).round() / 255, x))

    def forward(self, x):
        return self.head(self.features(x))


@pytest.mark.usefixtures("unchecked")
def test_an_attack_without_gradients_is_warned_of_with_the_share_of_images(network, photos):
    """Ten of forty are made light, so that their gradients vanish."""
    images = photos.images // 2
    images[::4] = 255 - images[::4]
    with pytest.warns(UserWarning, match=r"^25.0% of the images .* zero.* AutoAttack") as first:
        evaluate(Rounding(network), images, photos.labels, ATTACK)
    with pytest.warns(UserWarning, match=r"^25.0% of the images") as second:
        features_of(Rounding(network), images, photos.labels, ATTACK, batch_size=7)
    assert [found[0].filename for found in (first, second)] == [__file__] * 2
    assert second[0].lineno == first[0].lineno + 2


@pytest.mark.parametrize("scale", [100, 1e4])
def test_a_saturated_network_is_no_more_robust_for_that(photos, scale):
    """Of two classes one direction is worst, whatever the weights are multiplied by.

    By 1e4 the other class's chance is 0 in float32, and so is the cross-entropy's gradient.
    """
    torch.manual_seed(0)
    plain = Headed(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)))
    labels = plain(photos.images / 255).argmax(1)
    labels[:2] = torch.arange(2)
    attack = replace(ATTACK, eps=0.02)
    wanted = evaluate(plain, photos.images, labels, attack).robust.accuracy
    assert 0.05 < wanted < 0.9
    plain.head.weight.data *= scale
    plain.head.bias.data *= scale
    assert evaluate(plain, photos.images, labels, attack).robust.accuracy == wanted


def test_no_warning_where_gradients_are_there(network, photos):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(network, photos.images, photos.labels, ATTACK)
        radii(network, photos, ATTACK)
        stage_similarity(network, photos, ATTACK)


def test_evaluation_counts_right_answers_per_class():
    found, data = run(SMALL), dataset(SMALL).test
    model = found.model("last")
    x = pgd(
        model, data.images / 255, data.labels, SMALL.eval_attack, torch.Generator().manual_seed(0)
    )
    right = (model(x).argmax(1) == data.labels).float()
    result = evaluate(model, data.images, data.labels, SMALL.eval_attack)
    assert result.robust.accuracy.item() == pytest.approx(right.mean().item())
    for label in range(6):
        mean = right[data.labels == label].mean().item()
        assert result.robust.class_accuracy[label].item() == pytest.approx(mean)


class Between(ConvNet):
    """BatchNorm stands between features and head."""

    def __init__(self):
        super().__init__(4, width=2)
        self.between = nn.BatchNorm1d(8)
        self.between.running_mean += 1

    def forward(self, x):
        return self.head(self.between(self.features(x)))


class Negative(ConvNet):
    def forward(self, x):
        return -self.head(self.features(x))


class Plain(ConvNet):
    def forward(self, x):
        return self.features(x) @ self.head.weight.T + self.head.bias


def test_a_foreign_network_s_logits_must_be_its_head_of_its_features(photos):
    for attack in (None, ATTACK):
        for network in (Between(), Negative(4, width=2)):
            with pytest.raises(ValueError, match=r"are not head\(features\(x\)\).*Headed\(network"):
                features_of(network, photos.images, photos.labels, attack)
    network = Plain(4, width=2).eval()
    expected = network.features(photos.images / 255)
    found = features_of(network, photos.images, photos.labels)
    torch.testing.assert_close(found, expected)


class Random(nn.Module):
    """A network of one linear layer before which ``noise`` is made of its input, in any mode."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.head = noise, nn.Linear(768, 4)

    def features(self, x):
        return self.noise(x.flatten(1))

    def forward(self, x):
        return self.head(self.features(x))


def counting():
    """A layer that remembers what it was asked before."""
    calls = []
    return lambda x: x + 0.01 * len(calls) if not calls.append(x) else x


NOISES = {
    "dropout": F.dropout,
    "by hand": lambda x: x * (torch.rand_like(x) > 0.01),
    "noise": lambda x: x + 1e-3 * torch.randn_like(x),
    "of an image": lambda x: stochastic_depth(x, 0.2, "row"),
    "of a batch": lambda x: stochastic_depth(x, 0.3, "batch"),
    "NumPy": lambda x: x + float(np.random.default_rng().random()),
    "state": counting(),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("attack", [None, PGD(steps=1)], ids=["clean", "attacked"])
@pytest.mark.parametrize("wrap", [nn.Identity, Headed], ids=["as it is", "wrapped"])
def test_a_network_that_is_random_in_eval_mode_is_refused(noise, attack, wrap, photos):
    torch.manual_seed(0)
    network = Random(noise)
    model = network if wrap is nn.Identity else Headed(network)
    with pytest.raises(ValueError, match=r"is random in eval mode: .*training=self\.training"):
        features_of(model, photos.images, photos.labels, attack)


def test_a_network_that_is_random_in_train_mode_only_is_not_refused(photos):
    torch.manual_seed(0)
    network = Headed(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 4))).train()
    for precision in ("float32", "bfloat16"):
        evaluate(network, photos.images, photos.labels, ATTACK, precision=precision)


def test_our_own_networks_are_not_asked_more_than_once(network, photos, monkeypatch):
    """But for one image, of which the layers' memory follows."""
    asked, features = [], ConvNet.features
    monkeypatch.setattr(ConvNet, "features", lambda s, x: asked.append(len(x)) or features(s, x))
    features_of(network, photos.images, photos.labels)
    assert asked == [1, len(photos)]


def test_a_head_of_one_class_is_answered_by_one_line(photos):
    labels = torch.zeros(4, dtype=torch.long)
    for ask in (
        lambda: neural_collapse(torch.rand(4, 3), labels, 1),
        lambda: measure(torch.rand(4, 3), labels, nn.Linear(3, 1)),
        lambda: evaluate(ConvNet(1, width=2), photos.images[:4], labels, ATTACK),
    ):
        with pytest.raises(ValueError, match=r"a head of 1 class has no pairs .* two classes or"):
            ask()


def test_radii_end_where_an_attack_s_lengths_do(photos):
    network = ConvNet(4, width=2)
    found = radii(network, photos, PGD(norm="l2", eps=1e6, step_size=1e6, steps=1))
    assert found.radius.tolist() == [0, 0.25e6, 0.5e6, 1e6, 1e6, 1e6]


def test_features_in_half_precision_are_measured_in_single(network):
    """Sums of 4096 features of 40 pass 65504, where float16 ends."""
    torch.manual_seed(0)
    features, labels = (40 * torch.rand(8192, 16)).half(), torch.arange(8192) % 4
    found = measure(features, labels, network.head)
    expected = measure(features.float(), labels, network.head)
    assert torch.equal(found.class_means, expected.class_means)
    assert torch.equal(found.similarity, expected.similarity)
    assert found.accuracy == expected.accuracy


def test_the_confusion_counts_each_image_once_by_its_class_and_the_predicted_one():
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = torch.eye(3)
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    taken_for = torch.tensor([0, 2, 2, 1, 0, 2])
    found = measure(torch.eye(3)[taken_for] + 0.1, labels, head)
    assert found.confusion.tolist() == [[1, 0, 2], [0, 1, 0], [1, 0, 1]]
    torch.testing.assert_close(found.class_accuracy, torch.tensor([1 / 3, 1.0, 0.5]))


def test_an_evaluation_without_an_attack_is_refused(network, photos, unchecked):
    """What would be called robust would be clean."""
    with pytest.raises(ValueError, match=r"attack=None leaves nothing .* PGD\(eps=0\)"):
        evaluate(network, photos.images, photos.labels, None)


@pytest.mark.parametrize("kind", ["batch statistics", "a mean over the batch"])
def test_a_network_that_answers_by_what_shares_its_batch_is_refused(kind, photos):
    """Its accuracy would depend on the size of batches and on the order of images."""

    class Company(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, track_running_stats=False) if kind[0] == "b" else Company()
    network = Headed(nn.Sequential(norm, nn.Flatten(), nn.Linear(768, 4)))
    with pytest.raises(ValueError, match="answers for an image by what else is in its batch"):
        features_of(network, photos.images, photos.labels)


def test_as_many_images_are_computed_on_together_as_fit_into_8_gib():
    """What the layers give, in float32, and as much again for gradients; ours as ever by 500."""
    small = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    large = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    assert fitting(small, PreActResNet(10, width=64)) == 500
    wide = network_called("wideresnet-28", 10, 160)
    layers = numbers(wide, small)
    assert layers > 4_000_000  # 500 of them would take 16 GB with their gradients
    assert fitting(small, wide) == 2**30 // layers
    assert 2 * 4 * layers * fitting(small, wide) <= 2**33
    assert not any(module._forward_hooks for module in wide.modules())
    huge = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(2000)), nn.Flatten())
    assert fitting(large, huge) == 3
    assert fitting(large) == 20
