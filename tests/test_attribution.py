import pytest
import torch
import torch.nn.functional as F

from ccnotes.attribution import (
    cas,
    cas_draws,
    class_attribution,
    class_similarity,
    grad_cam,
    group_similarity,
    instance_similarity,
    layer_attribution,
    spread,
)
from ccnotes.models import ConvNet, PreActResNet


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
    found = layer_attribution(network, network[0], images, labels)
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


def test_the_spread_of_a_map_is_its_share_of_the_places():
    maps = torch.zeros(4, 2, 3)
    maps[0, 1, 2] = 7  # one place of six
    maps[1] = 0.1  # all of them
    maps[2, 0, :2] = 5  # two of them
    assert spread(maps)[:3].tolist() == pytest.approx([1 / 6, 1, 2 / 6])
    assert spread(maps)[3].isnan()
