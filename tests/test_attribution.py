import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ccnotes.attribution import (
    cas,
    cas_draws,
    check_maps,
    class_attribution,
    class_means,
    class_similarity,
    grad_cam,
    group_similarity,
    head_or_features,
    instance_similarity,
    layer_attribution,
    share_on,
    spread,
)
from ccnotes.models import ConvNet, Headed, PreActResNet


@pytest.fixture
def sample():
    torch.manual_seed(0)
    return torch.rand(60, 5), torch.arange(60) % 4, torch.randn(4, 5)


def test_attribution_sums_to_the_mean_logit(sample):
    h, y, w = sample
    mean_logit = torch.stack([(h[y == c] @ w[c]).mean() for c in range(4)])
    torch.testing.assert_close(class_attribution(h, y, w).sum(1), mean_logit)


def test_similarity_by_hand():
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    expected = torch.tensor([[1.0, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]])
    torch.testing.assert_close(class_similarity(a), expected)


def test_cas_by_hand_counts_both_triangles_and_no_negatives():
    c = torch.tensor([[1.0, 0.5, -0.7], [0.5, 1.0, 0.25], [-0.7, 0.25, 1.0]])
    assert cas(c).item() == pytest.approx(2 * (0.5 + 0.25))


def test_similarity_and_cas_agree_with_a_double_loop_over_classes(sample):
    a = class_attribution(*sample)
    total = 0.0
    for i in range(4):
        for j in range(4):
            cosine = F.cosine_similarity(a[i], a[j], dim=0)
            torch.testing.assert_close(class_similarity(a)[i, j], cosine, atol=1e-6, rtol=0)
            total += max(cosine.item(), 0) if i != j else 0
    assert cas(class_similarity(a)).item() == pytest.approx(total, abs=1e-6)


def test_cas_of_a_series_is_that_of_each_matrix(sample):
    torch.manual_seed(1)
    series = torch.randn(3, 4, 4)
    torch.testing.assert_close(cas(series), torch.stack([cas(c) for c in series]))


def test_cas_of_identical_classes_is_its_maximum():
    assert cas(class_similarity(torch.ones(10, 7))).item() == pytest.approx(90)


def test_instance_similarity_agrees_with_a_loop_over_all_pairs_of_images(sample):
    h, y, w = sample
    a = h * w[y]
    expected = torch.zeros(4, 4)
    for i in range(4):
        for j in range(4):
            pairs = [
                F.cosine_similarity(a[p], a[q], dim=0)
                for p in range(60)
                for q in range(60)
                if y[p] == i and y[q] == j and p != q
            ]
            expected[i, j] = torch.stack(pairs).mean()
    torch.testing.assert_close(instance_similarity(h, y, w), expected, atol=1e-6, rtol=0)


def test_bootstrap_draws_of_cas_are_those_of_resampled_images(sample):
    """Against samples with replacement that are put together and measured one by one."""
    h, y, w = sample
    found = cas_draws(h, y, w, draws=4000)
    expected = []
    for _ in range(4000):
        drawn = torch.cat([(y == c).nonzero()[:, 0][torch.randint(15, (15,))] for c in range(4)])
        expected.append(cas(class_similarity(class_attribution(h[drawn], y[drawn], w))))
    # Two samples of 4,000: their means agree within five standard errors of a difference, their
    # standard deviations within 10 % (five times 1 / sqrt(4000) and a little).
    expected = torch.stack(expected)
    error = expected.std() * (2 / 4000) ** 0.5
    assert abs(found.mean() - expected.mean()) < 5 * error
    assert found.std().item() == pytest.approx(expected.std().item(), rel=0.1)


def test_bootstrap_draws_of_two_models_take_the_same_images(sample):
    h, y, w = sample
    assert torch.equal(cas_draws(h, y, w, draws=50), cas_draws(h, y, 2 * w, draws=50))


def test_bootstrap_draws_of_images_that_do_not_differ_do_not_differ(sample):
    _, y, w = sample
    h = torch.rand(4, 5)[y]
    draws = cas_draws(h, y, w, draws=20)
    expected = cas(class_similarity(class_attribution(h, y, w)))
    torch.testing.assert_close(draws, expected.expand(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", [ConvNet(4, width=4), PreActResNet(4, width=2)])
def test_gradient_times_activation_is_exact_at_the_last_layer(network):
    network.eval()
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 4
    exact = network.features(images).detach() * network.head.weight.detach()[labels]
    found = layer_attribution(network, network.stages[-1], images, labels)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-5)


def test_gradient_times_activation_adds_up_to_the_logit_of_a_network_without_biases():
    """Euler: a map that scales with its input equals its gradient times its input."""
    layers = [torch.nn.Conv2d(3, 6, 3, bias=False), torch.nn.ReLU(), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(6 * 36, 4, bias=False))
    images, labels = torch.rand(5, 3, 8, 8), torch.arange(5) % 4
    found = layer_attribution(network, network[0], images, labels, channels=1)
    own = network(images).detach()[range(5), labels]
    torch.testing.assert_close(found.sum(1), own, atol=1e-6, rtol=1e-5)


def test_instance_similarity_of_a_class_with_one_image_is_unknown():
    found = instance_similarity(torch.rand(3, 5), torch.tensor([0, 0, 1]), torch.rand(2, 5))
    assert torch.isnan(found[1, 1])
    assert not torch.isnan(found[0, 0])


def test_group_similarity_by_hand():
    c = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, -0.3], [0.1, -0.3, 1.0]])
    inside, across = group_similarity(c, torch.tensor([0, 0, 1]))
    assert inside.item() == pytest.approx(0.8)
    assert across.item() == pytest.approx(-0.1)


def test_a_class_without_samples_is_named():
    with pytest.raises(ValueError, match="label -1 is not one of the 3 classes"):
        class_attribution(torch.rand(4, 5), torch.tensor([0, 1, 2, -1]), torch.rand(3, 5))
    with pytest.raises(ValueError, match="label 3 is not one of the 3 classes"):
        class_attribution(torch.rand(4, 5), torch.tensor([0, 1, 2, 3]), torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"no samples of class \[2\]"):
        class_attribution(torch.rand(4, 5), torch.tensor([0, 1, 0, 1]), torch.rand(3, 5))


@pytest.mark.parametrize("network", [ConvNet(4, width=2), PreActResNet(4, width=2)])
def test_grad_cam_at_the_last_layer_is_the_attribution_place_by_place(network):
    """Where a mean and a linear head follow: sum over k of W_yk h_kp / P, where it is positive."""
    torch.manual_seed(0)
    images, labels = torch.rand(5, 3, 16, 16), torch.tensor([0, 1, 2, 3, 1])
    network.eval()
    found = []
    hook = network.stages[-1].register_forward_hook(lambda m, i, output: found.append(output))
    with torch.no_grad(), hook:
        network(images)
    h, head = found[0], network.head.weight.detach()
    places = h.shape[2] * h.shape[3]
    expected = torch.einsum("nk,nkhw->nhw", head[labels], h).clamp_min(0) / places
    maps = grad_cam(network, network.stages[-1], images, labels)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)
    assert maps.max() > 0


def test_grad_cam_agrees_with_captum():
    """At an earlier layer, of a network in eval mode: the same sums, to rounding."""
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    network, images, labels = PreActResNet(4, width=2).eval(), torch.rand(5, 3, 16, 16), CLASSES
    for layer in network.stages:
        expected = captum.LayerGradCam(network, layer).attribute(
            images, target=labels, relu_attributions=True
        )
        found = grad_cam(network, layer, images, labels)
        torch.testing.assert_close(found, expected.detach().squeeze(1), atol=1e-7, rtol=1e-5)


CLASSES = torch.tensor([0, 1, 2, 3, 1])


IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_activation_in_place_does_not_pass_for_the_layer_before_it():
    """The whole attribution is the slope of the logit in a factor on the layer's output."""
    torch.manual_seed(0)
    first, *last = nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(180, 4)
    plain = nn.Sequential(first, nn.SiLU(), *last).double()
    inplace = nn.Sequential(first, nn.SiLU(inplace=True), *last)
    with torch.no_grad():
        expected = scaled_slope(plain, first)
    maps = grad_cam(plain, first, IMAGES.double(), CLASSES)
    for network in (plain, inplace):
        found = layer_attribution(network, first, IMAGES.double(), CLASSES)
        torch.testing.assert_close(found.sum(1).double(), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(grad_cam(network, first, IMAGES.double(), CLASSES), maps)


def scaled_slope(network, layer, step=1e-5):
    """How fast the own logits grow with a factor on the layer's output, by central differences."""
    logits = []
    for factor in (1 + step, 1 - step):
        with layer.register_forward_hook(lambda module, given, out, factor=factor: out * factor):
            logits.append(network(IMAGES.double())[range(5), CLASSES])
    return (logits[0] - logits[1]) / (2 * step)


class Tokens(nn.Module):
    """A small transformer: 4 x 4 patches of 2 x 2 pixels, one block, their mean, a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = Last()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.block(self.patches(x).flatten(2).mT)
        return self.head(self.last(tokens.unflatten(1, (4, 4))).mean((1, 2)))


class Last(nn.Module):
    """Maps whose channels come last, as a Swin transformer has them."""

    def forward(self, x):
        return 2 * x


def test_tokens_are_told_from_maps():
    """Before a mean over tokens and a linear head the attribution is h_k W_yk, exactly."""
    network = Tokens().eval()
    with torch.no_grad():
        tokens = network.block(network.patches(IMAGES).flatten(2).mT)
        expected = 2 * tokens.mean(1) * network.head.weight[CLASSES]
    for layer, channels in ((network.block, 2), (network.last, 3)):
        found = layer_attribution(network, layer, IMAGES, CLASSES, channels=channels)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        with pytest.raises(ValueError, match=r"are no maps .*: say by channels which"):
            layer_attribution(network, layer, IMAGES, CLASSES)
        with pytest.raises(ValueError, match=r"are no maps .*: say by channels which"):
            grad_cam(network, layer, IMAGES, CLASSES)
    last = layer_attribution(network, network.block, IMAGES, CLASSES, channels=-1)
    assert torch.equal(last, layer_attribution(network, network.block, IMAGES, CLASSES, channels=2))
    for channels in (0, 3, -3):
        with pytest.raises(ValueError, match=rf"channels={channels} is no dimension .* 1 to 2 are"):
            layer_attribution(network, network.block, IMAGES, CLASSES, channels=channels)


@pytest.mark.parametrize("shape", [(17, 25), (25, 17), (224, 300), (12, 12), (30, 10)])
def test_maps_of_images_of_any_proportion_are_maps(shape):
    """Halved, rounded up, as convolutions with stride do, down to one place."""
    rows, columns = shape
    images = torch.empty(1, 3, rows, columns)
    while rows * columns > 1:
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
        check_maps(torch.empty(1, 700, rows, columns), images, "")
        with pytest.raises(ValueError, match="are no maps"):
            check_maps(torch.empty(1, rows, columns, 700), images, "")


def test_places_by_channels_are_no_maps_of_square_images_however_few_channels():
    for channels in (1, 7, 9, 12):
        with pytest.raises(ValueError, match="are no maps"):
            check_maps(torch.empty(1, 8, 8, channels), torch.empty(1, 3, 32, 32), "")


def test_a_layer_of_vectors_gives_one_contribution_a_feature():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.Linear(6, 4))
    with torch.no_grad():
        expected = network[:3](IMAGES) * network[3].weight[CLASSES]
    found = layer_attribution(network, network[2], IMAGES, CLASSES)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


class Odd(nn.Module):
    """Layers that are used twice, not at all, beside the way, without a gradient, or in pairs."""

    def __init__(self):
        super().__init__()
        self.shared, self.alien, self.pair = nn.ReLU(), nn.ReLU(), Pair()
        self.aside, self.blind = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.turned, self.head = Turned(), nn.Linear(192, 4)

    def forward(self, x):
        self.aside(x)
        with torch.no_grad():
            blind = self.blind(x)
        x = self.shared(self.shared(x) - 0.5) + blind + self.pair(x)[0]
        return self.head(self.turned(x.flatten(1)).mT)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Turned(nn.Module):
    def forward(self, x):
        return 1 * x.mT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shared", "ReLU is used 2 times"),
        ("alien", "ReLU is used 0 times"),
        ("aside", "no gradient in the output of the layer Conv2d"),
        ("blind", "no gradient in the output of the layer Conv2d"),
        ("pair", "Pair returns tuple, no tensor"),
        ("turned", r"the layer Turned \(shape \(192, 5\)\)"),
    ],
)
def test_layers_that_cannot_be_asked_are_named_with_the_reason(name, message):
    network = Odd()
    for ask in (layer_attribution, grad_cam):
        with pytest.raises(ValueError, match=message):
            ask(network, getattr(network, name), IMAGES, CLASSES)


class Dropping(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.1)


def test_attribution_in_a_network_that_is_random_in_eval_mode_is_refused():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 1), Dropping(), nn.Flatten(), nn.Linear(256, 4))
    network = nn.Sequential(*layers)
    for ask in (layer_attribution, grad_cam):
        with pytest.raises(ValueError, match=r"Sequential is random in eval mode"):
            ask(network, network[0], IMAGES, CLASSES)


def test_attribution_asks_a_network_in_eval_mode_and_leaves_it_as_it_was():
    network = ConvNet(4, width=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = layer_attribution(network, network.stages[0], IMAGES, CLASSES)
    assert network.training
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())
    assert torch.equal(found, layer_attribution(network.eval(), network.stages[0], IMAGES, CLASSES))
    assert all(weight.grad is None for weight in network.parameters())


def test_attribution_works_in_inference_mode_and_for_labels_of_any_width():
    network = ConvNet(4, width=3)
    for ask in (layer_attribution, grad_cam):
        expected = ask(network, network.stages[0], IMAGES, CLASSES)
        assert torch.equal(ask(network, network.stages[0], IMAGES, CLASSES.byte()), expected)
        with torch.inference_mode():
            images, labels = IMAGES + 0, CLASSES.int()
            assert torch.equal(ask(network, network.stages[0], images, labels), expected)
        with pytest.raises(ValueError, match="label 4 is not one of the 4 classes"):
            ask(network, network.stages[0], IMAGES, CLASSES + 1)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-13, 1.0, 1e18, 1e25, 1e38])
def test_similarity_does_not_depend_on_the_scale(sample, scale):
    """Squares of float32 end at 1e-45 and at 3e38; at 1e-40 it has five digits still."""
    torch.manual_seed(0)
    vectors = torch.rand(4, 30) - 0.3
    expected = class_similarity(vectors)
    atol = 1e-4 if scale < 1e-38 else 1e-6
    torch.testing.assert_close(class_similarity(scale * vectors), expected, atol=atol, rtol=0)
    mixed = vectors * torch.tensor([[scale], [1.0], [scale], [2.0]])
    torch.testing.assert_close(class_similarity(mixed), expected, atol=atol, rtol=0)
    h, y, w = sample
    if scale > 1e-38:  # below, single features lose digits
        found = instance_similarity(scale * h, y, w)
        torch.testing.assert_close(found, instance_similarity(h, y, w), atol=1e-5, rtol=0)
    if 1e-38 < scale < 1e37:  # beyond, sums over images overflow
        found = cas_draws(scale * h, y, w, draws=20)
        torch.testing.assert_close(found, cas_draws(h, y, w, draws=20), atol=1e-5, rtol=0)


def test_similarity_at_usual_scales_has_the_bits_of_plain_cosines():
    torch.manual_seed(0)
    vectors = torch.randn(10, 512) * torch.logspace(-8, 8, 10)[:, None]
    unit = F.normalize(vectors, dim=1)
    assert torch.equal(class_similarity(vectors), unit @ unit.T)


def test_similarity_with_a_vector_of_zeros_is_zero():
    found = class_similarity(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_width_give_the_same(sample, dtype):
    h, y, w = sample
    for ask in (class_attribution, instance_similarity, cas_draws):
        assert torch.equal(ask(h, y.to(dtype), w), ask(h, y, w))


def test_many_classes_without_samples_are_counted_not_listed():
    with pytest.raises(
        ValueError, match=r"\[2, 3, 4 and 995 more\].* 2 of the head's 1000"
    ) as error:
        class_attribution(torch.rand(4, 5), torch.tensor([0, 1, 0, 1]), torch.rand(1000, 5))
    assert len(str(error.value)) < 400


def test_the_share_of_a_map_on_a_square_counts_the_pixels_of_each_place():
    """Against the map spread out over 20 x 20 pixels, each place over its 5 x 4."""
    torch.manual_seed(0)
    maps, corners = torch.rand(30, 4, 5), torch.randint(13, (30, 2))
    pixels = maps.repeat_interleave(5, 1).repeat_interleave(4, 2) / 20
    wanted = [
        (each[a : a + 8, b : b + 8].sum() / each.sum()).item()
        for each, (a, b) in zip(pixels, corners.tolist(), strict=True)
    ]
    assert share_on(maps, corners, size=8, side=20).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_spread_of_a_map_is_its_share_of_the_places():
    maps = torch.zeros(4, 2, 3)
    maps[0, 1, 2] = 7  # one place of six
    maps[1] = 0.1  # all of them
    maps[2, 0, :2] = 5  # two of them
    assert spread(maps)[:3].tolist() == pytest.approx([1 / 6, 1, 2 / 6])
    assert spread(maps)[3].isnan()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int32])
def test_sums_of_narrow_features_do_not_overflow(dtype):
    """By hand: both means are 200, of 1000 each, and the vectors (200, 0) and (200, 200)."""
    labels = torch.arange(2000) % 2
    features = (200 * torch.tensor([[1, 0], [1, 1]])[labels]).to(dtype)
    means = class_means(features, labels, 2)
    assert means.dtype == torch.float32
    assert means.tolist() == [[200, 0], [200, 200]]
    expected = torch.tensor([[1, 0.5**0.5], [0.5**0.5, 1]])
    torch.testing.assert_close(class_similarity(means.to(dtype)), expected)
    torch.testing.assert_close(class_similarity((means * 100).half()), expected)
    head = torch.full((2, 2), 1000.0).to(torch.float16)
    found = instance_similarity(features, labels, head)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # sums of 1000 unit vectors
    draws = cas_draws(features, labels, head, draws=2)
    torch.testing.assert_close(draws, torch.full((2,), 2**0.5))
    assert class_means(features.double(), labels, 2).dtype == torch.float64


@pytest.mark.usefixtures("unchecked")
def test_attribution_wants_one_label_per_image():
    network = ConvNet(4, width=3)
    for ask in (layer_attribution, grad_cam):
        for labels in (CLASSES[:1], CLASSES[:3], CLASSES[:, None]):
            with pytest.raises(ValueError, match=r"5 images and labels .* one label per image"):
                ask(network, network.stages[0], IMAGES, labels)


def test_grad_cam_of_tokens_and_of_channels_that_come_last():
    """By hand: before a mean over P places and a head W the gradient is W_y / P everywhere."""
    network = Tokens().eval()
    with torch.no_grad():
        tokens = network.block(network.patches(IMAGES).flatten(2).mT)
        own = network.head.weight[CLASSES][:, None]
        expected = (2 * tokens * own / 16).sum(2).relu()
    found = grad_cam(network, network.block, IMAGES, CLASSES, channels=2)
    torch.testing.assert_close(found, expected)
    maps = grad_cam(network, network.last, IMAGES, CLASSES, channels=3)
    torch.testing.assert_close(maps, expected.unflatten(1, (4, 4)))


def test_channels_that_may_be_first_or_last_must_be_said():
    """8 x 8 places and 8 channels."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 4))
    layer = network[1]
    for ask in (layer_attribution, grad_cam):
        with pytest.raises(ValueError, match=r"by channels=1 or channels=3"):
            ask(network, layer, IMAGES, CLASSES)
        first, last = (ask(network, layer, IMAGES, CLASSES, channels=c) for c in (1, 3))
        assert first.shape == last.shape
        assert not torch.allclose(first, last)


def test_attention_is_no_maps():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Softmax(3), nn.Flatten(), nn.Linear(128, 4))
    for ask in (layer_attribution, grad_cam):
        with pytest.raises(ValueError, match=r"is attention .* choose the layer that gives the"):
            ask(network, network[1], IMAGES, CLASSES)


def test_head_and_features_are_told_apart_by_hand():
    """Of three classes and two features; of the head the mean row is taken off for NC3 alone."""
    means = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])  # their mean is (1, 1)
    head = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = head_or_features(means, head)
    cosine = torch.nn.functional.cosine_similarity

    def matrix(rows):
        return torch.stack([cosine(row[None], rows) for row in rows])

    torch.testing.assert_close(found.head, matrix(head))
    torch.testing.assert_close(found.centred, matrix(means - 1))
    torch.testing.assert_close(found.blind, matrix(head))  # as all means are alike
    rows = head - torch.tensor([1.0, 2 / 3])
    expected = rows / rows.square().sum().sqrt() - (means - 1) / (means - 1).square().sum().sqrt()
    torch.testing.assert_close(found.nc3, expected.square().sum().sqrt())


def test_a_head_in_the_shape_of_the_centred_means_has_nc3_of_zero():
    means = torch.rand(4, 9) + 5
    head = 3 * (means - means.mean(0)) + torch.rand(9)  # what all rows share decides nothing
    assert head_or_features(means, head).nc3 < 1e-5


@pytest.mark.parametrize(("features", "head"), [((6, 4), (2, 1)), ((6, 1), (2, 4)), ((6, 4), (2,))])
def test_features_and_heads_of_other_widths_are_refused(features, head, unchecked):
    """They would have been stretched to fit each other."""
    with pytest.raises(ValueError, match=r"features of the shape .* do not fit"):
        class_attribution(torch.rand(features), torch.arange(6) % 2, torch.rand(head))


def test_pixels_of_0_to_255_are_refused_where_the_network_normalises_its_own():
    model, x = ConvNet(3, width=4).eval(), torch.randint(256, (3, 3, 8, 8)).float()
    for network in (model, Headed(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))):
        layer = model.stages[-1] if network is model else network.network[0]
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            layer_attribution(network, layer, x, torch.arange(3))
