import pytest
import torch
import torch.nn.functional as F

from ccnotes.attribution import (
    cas,
    class_attribution,
    class_similarity,
    group_similarity,
    instance_similarity,
)


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
    with pytest.raises(ValueError, match=r"no samples of class \[2\]"):
        class_attribution(torch.rand(4, 5), torch.tensor([0, 1, 0, 1]), torch.rand(3, 5))
