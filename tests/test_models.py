from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import utils
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from ccnotes.attacks import PGD, pgd
from ccnotes.evaluation import evaluate
from ccnotes.models import ConvNet, Headed, Normalize, PreActBlock, PreActResNet, agree

MODELS = [ConvNet(6, width=8), PreActResNet(6, width=4)]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_logits_are_the_head_of_the_features(model):
    x = torch.rand(5, 3, 32, 32)
    model.eval()
    features = model.features(x)
    assert features.shape == (5, model.head.in_features)
    assert features.min() >= 0
    torch.testing.assert_close(model(x), features @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("network", [ConvNet, PreActResNet])
def test_the_model_normalises_its_own_input(network):
    """Pixels shifted and scaled as mean and std say give the same logits."""
    torch.manual_seed(0)
    plain = network(4, 8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    own = network(4, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)).eval()
    own.load_state_dict(plain.state_dict() | {k: own.state_dict()[k] for k in NORMALISATION})
    x = torch.rand(3, 3, 16, 16)
    moved = x * torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    moved = moved + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(own(moved), plain(x), atol=1e-4, rtol=1e-4)


NORMALISATION = ("body.0.mean", "body.0.std")


def test_preactresnet_costs_what_the_literature_says():
    """1.11 GFLOP forward at 32 x 32 (two per multiplication), 11.2 million parameters."""
    model = PreActResNet().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 32, 32))
    assert counter.get_total_flops() == pytest.approx(1.11e9, rel=0.01)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.17e6, rel=0.01)


def test_the_last_stage_sees_an_eighth_of_the_side():
    body = PreActResNet(10, width=4).body
    assert body(torch.rand(1, 3, 32, 32)).shape == (1, 32, 4, 4)


def test_every_convolution_is_followed_by_a_norm_or_an_addition_so_has_no_bias():
    convolutions = [m for model in MODELS for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 3 + 1 + 16 + 3
    assert all(conv.bias is None for conv in convolutions)


def test_a_shortcut_with_stride_is_a_convolution_with_stride():
    block = PreActBlock(6, 8, stride=2).eval()
    x = torch.rand(2, 6, 9, 9)
    out = F.relu(block.norm1(x))
    expected = F.conv2d(out, block.shortcut.weight, stride=2)
    expected = expected + block.conv2(F.relu(block.norm2(block.conv1(out))))
    torch.testing.assert_close(block(x), expected)


def test_narrow_networks_train_on_two_threads():
    """oneDNN once wrote past its memory here and took the process with it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = PreActResNet(10, width=4).to(memory_format=torch.channels_last)
        x = torch.rand(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            model(x).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    finally:
        torch.set_num_threads(threads)


def test_a_wrapped_network_gives_what_the_network_itself_does():
    """Ours has features and a head of its own; wrapped, it is asked through its last layer."""
    torch.manual_seed(0)
    own = ConvNet(6, width=8).eval()
    wrapped = Headed(own).eval()
    images, labels = torch.randint(256, (30, 3, 16, 16), dtype=torch.uint8), torch.arange(30) % 6
    torch.testing.assert_close(wrapped.features(images / 255), own.features(images / 255))
    attack = PGD(eps=0.05, step_size=0.02, steps=2)
    found, expected = (evaluate(m, images, labels, attack, draws=5) for m in (wrapped, own))
    for name, value in expected.flat().items():
        torch.testing.assert_close(found.flat()[name], value)


def test_torchvision_s_networks_can_be_wrapped():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5).eval()
    wrapped = Headed(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2)).eval()
    x = torch.rand(2, 3, 64, 64)
    normal = (x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.2])[
        :, None, None
    ]
    torch.testing.assert_close(wrapped(x), network(normal))
    logits = wrapped.features(x) @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(logits, network(normal), atol=1e-5, rtol=1e-4)


class Branched(nn.Module):
    """Its last linear layer is not where its logits come from."""

    def __init__(self):
        super().__init__()
        self.logits, self.extra = nn.Linear(12, 3), nn.Linear(12, 7)

    def forward(self, x):
        return self.logits(x.flatten(1)) + 0 * self.extra(x.flatten(1)).sum(1, keepdim=True)


def test_a_network_whose_logits_come_from_elsewhere_is_refused():
    x = torch.rand(2, 3, 2, 2)
    with pytest.raises(ValueError, match="Conv2d has no linear layer at all"):
        Headed(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=r"no linear layer fc.*Linear layers: logits, extra"):
        Headed(Branched(), "fc")
    with pytest.raises(ValueError, match=r"are not what its layer 'extra' gives: name the layer"):
        Headed(Branched()).features(x)
    with pytest.raises(ValueError, match="are not what its layer"):
        Headed(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1))).features(x)
    assert Headed(Branched(), "logits")(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ((0.0,), (255.0,)),
        ((0.5, 0.5, 0.5), (57.0, 57.0, 57.0)),
    ],
)
def test_mean_and_std_of_0_to_255_are_told_by_their_size(mean, std):
    for make in (lambda: Headed(nn.Linear(3, 2), mean=mean, std=std), lambda: Normalize(mean, std)):
        with pytest.raises(ValueError, match=r"Did you mean those of 0..255, each divided by 255"):
            make()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.0,), "a standard deviation above 0"),
        ((0.5,), (-0.2,), "a standard deviation above 0"),
        ((-0.1,), (0.2,), r"a mean lies in 0\.\.1"),
        ((float("nan"),), (0.2,), r"a mean lies in 0\.\.1"),
        ((0.5,), (float("nan"),), "a standard deviation above 0"),
        ((0.5, 0.5, 0.5), (0.2,), "one number per channel"),
        ((), (), "one number per channel"),
    ],
)
def test_mean_and_std_that_cannot_be_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Headed(nn.Linear(3, 2), mean=mean, std=std)


@pytest.mark.parametrize("network", [ConvNet(4, width=2), PreActResNet(4, width=2)])
def test_images_with_other_channels_are_refused_rather_than_spread(network):
    for channels in (1, 2, 4):
        message = rf"images of {channels} channels, where 3 are normalised"
        with pytest.raises(ValueError, match=message):
            network.eval()(torch.rand(2, channels, 16, 16))
    grey = ConvNet(4, width=2, mean=(0.5,), std=(0.25,)).eval()
    assert grey(torch.rand(2, 1, 16, 16)).shape == (2, 4)


class Small(nn.Module):
    """Features, a head, and whatever is done with them."""

    def __init__(self, use=lambda head, h: head(h), head=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
        self.fc = head or nn.Linear(5, 3)
        self.use = use

    def forward(self, x):
        return self.use(self.fc, self.body(x))


class Cosine(nn.Linear):
    def forward(self, h):
        return 20 * F.linear(F.normalize(h), F.normalize(self.weight))


class Shifted(nn.Linear):
    """Less than rounding of half precision hides, more than float32's does."""

    def forward(self, h):
        return F.linear(h, self.weight, self.bias * 1.01)


class Written(nn.Linear):
    """The same product, rounded otherwise."""

    def forward(self, input):
        return (input.double() @ self.weight.double().T + self.bias.double()).float()


def changed(head, h):
    logits = head(h)
    logits /= 2
    return logits


def overwritten(head, h):
    logits = head(h)
    with torch.no_grad():
        h.zero_()
    return logits


def masked(head, h):
    logits = head(h)
    logits[:, 1] -= 1
    return logits


X = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "use",
    [
        lambda head, h: head(h),
        lambda head, h: head(input=h),
        lambda head, h: head(h).clone(),
        lambda head, h: head(h).double(),
    ],
    ids=["called", "by keyword", "copied", "widened"],
)
def test_features_of_a_wrapped_network_are_what_its_head_is_given(use):
    network = Small(use)
    expected = network.body(X)
    assert torch.equal(Headed(network).features(X), expected)
    assert torch.equal(Headed(Small(use, Written(5, 3))).features(X), expected)


@torch.no_grad()
def test_features_are_kept_from_what_is_written_over_them_later():
    assert torch.equal(Headed(Small(overwritten)).features(X), Small().body(X))


@pytest.mark.parametrize(
    "network",
    [
        Small(head=Cosine(5, 3)),
        Small(head=Shifted(5, 3)),
        Small(changed),
        Small(masked),
        Small(lambda head, h: head(h) / 20),
        Small(lambda head, h: head(h)[:, :2]),
        Small(lambda head, h: head(h.flip(1)) + h[:, :3]),
        Small(lambda head, h: head(h[:, None]).squeeze(1)),
    ],
    ids=["cosine", "shifted", "halved", "masked", "cooled", "cut", "added", "of tokens"],
)
def test_logits_that_are_not_the_head_s_product_are_refused(network):
    with pytest.raises(ValueError, match=r"are not what its layer 'fc' gives: .*weight.T \+ bias"):
        Headed(network).features(X)


def test_no_hook_of_ours_stays_behind():
    for network in (Small(), Small(changed), Small(lambda head, h: head(h) / 0)):
        with suppress(ValueError):
            Headed(network).features(X)
        assert not network.fc._forward_hooks


def test_a_hook_that_changes_the_logits_is_noticed():
    for place in (lambda network: network, lambda network: network.fc):
        network = Small()
        place(network).register_forward_hook(lambda module, given, out: out * 2)
        with pytest.raises(ValueError, match="are not what its layer 'fc' gives"):
            Headed(network).features(X)


def test_a_hook_that_changes_the_features_gives_the_changed_ones():
    network = Small()
    network.fc.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    assert torch.equal(Headed(network).features(X), network.body(X) + 1)


@pytest.mark.parametrize(
    ("use", "times"),
    [
        (lambda head, h: (head(h) + head(h)) / 2, r"it is called 2 times"),
        (
            lambda head, h: F.linear(h, head.weight, head.bias),
            r"it is never called, unless",
        ),
    ],
)
def test_a_head_that_is_not_called_once_is_refused(use, times):
    with pytest.raises(ValueError, match=times):
        Headed(Small(use)).features(X)


@dataclass
class Output:
    logits: Tensor
    loss: None = None


class ModelOutput(OrderedDict):
    """As transformers has it: a dictionary whose entries are attributes, too."""

    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    "pack", [Output, lambda z: {"loss": None, "logits": z}, lambda z: ModelOutput(logits=z)]
)
def test_logits_are_found_in_an_output_that_names_them(pack):
    packed = Headed(Small(lambda head, h: pack(head(h))))
    torch.testing.assert_close(packed(X), Small()(X))
    torch.testing.assert_close(packed.features(X), Small().body(X))
    wrong = Headed(Small(lambda head, h: pack(head(h) / 2)))
    with pytest.raises(ValueError, match="are not what its layer"):
        wrong.features(X)


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda z: (z, z), "returns tuple, in which logits .* none is found"),
        (lambda z: [z], "returns list, in which logits"),
        (lambda z: {"out": z}, "returns dict, in which logits"),
        (lambda z: None, "returns NoneType, in which logits"),
        (lambda z: z[:, None], r"a tensor of shape \(6, 1, 3\) is found"),
    ],
)
def test_an_output_without_logits_is_answered_by_one_line(pack, message):
    with pytest.raises(ValueError, match=message):
        Headed(Small(lambda head, h: pack(head(h))))(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_wrapped_networks_of_other_types_take_float32_images(dtype):
    expected = Headed(Small(), mean=(0.4,), std=(0.2,)).features(X)
    for network in (Headed(Small().to(dtype), mean=(0.4,), std=(0.2,)),):
        found = network.features(X)
        assert found.dtype == dtype
        # Bfloat16 has eight bits.
        torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "rewrite",
    [
        utils.weight_norm,
        utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
    ids=["old weight norm", "old spectral norm", "weight norm", "spectral norm", "orthogonal"],
)
def test_heads_whose_weights_are_computed_are_split_as_others_are(rewrite):
    model = Headed(Small(head=rewrite(nn.Linear(5, 3)))).eval()
    logits = model.features(X) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(logits, model(X))


def test_a_wrapped_network_works_in_inference_mode():
    with torch.inference_mode():
        assert torch.equal(Headed(Small(), mean=(0.0,), std=(1.0,)).features(X), Small().body(X))


def test_a_network_that_was_wrapped_in_inference_mode_can_be_attacked():
    network, labels = Small(), torch.arange(6) % 3
    with torch.inference_mode():
        wrapped = Headed(network, mean=(0.4,), std=(0.2,))
    assert not torch.equal(pgd(wrapped, X, labels, PGD(random_start=False)), X)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_nan_are_named_as_the_reason(value):
    network = Small()
    network.body[1].weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"NaN or infinity for 6 of 6 .* stands in body.1.weight"):
        Headed(network).features(X)


@pytest.mark.parametrize(
    ("dtype", "shared", "added"),
    [
        (torch.bfloat16, 20, (0.5, 0, -0.5)),
        (torch.float16, 20, (0.5, 0, -0.5)),
        (torch.float32, 3e5, (20, 0, 20)),
        (torch.float32, 0, (1e-3, 0, 0)),
    ],
)
def test_a_number_that_all_logits_share_hides_no_change_of_them(dtype, shared, added):
    """Rounding of 20 is 0.08 in bfloat16; of 3e5 in float32 it is 0.016."""
    changed = Small(lambda head, h: head(h) + torch.tensor(added, dtype=dtype))
    for network in (changed, Small(head=Written(5, 3))):
        network.fc.bias.data += shared
        network.to(dtype)
    with pytest.raises(ValueError, match="are not what its layer 'fc' gives"):
        Headed(changed).features(X)
    Headed(network).features(X)  # the same product, rounded otherwise


def test_the_class_that_wins_clearly_must_be_the_head_s():
    """By hand: one rounding of bfloat16 at 100 allows 0.8, and the top two are 1 apart."""
    linear = torch.tensor([[100.5, 100.5, 99.0]]).bfloat16()
    logits = torch.tensor([[100.0, 101.0, 99.0]]).bfloat16()
    size = torch.zeros(1, 1).double()
    assert not agree(linear, size, logits)
    assert agree(linear, size, linear)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_heads_in_half_precision_are_heads(dtype):
    """Sums of 2048 positive features, rounded once by one way and not at all by the other."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2048), nn.ReLU(), Written(2048, 100))
    assert Headed(network.to(dtype)).features(X).shape == (6, 2048)
    with torch.autocast("cpu", dtype):
        assert Headed(network.float()).features(X).shape == (6, 2048)


def test_whole_numbers_for_mean_and_std_cut_no_pixel():
    """They made whole numbers of the pixels, too: black images, without a word."""
    x = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(Normalize(mean=(0, 0, 0), std=(1, 1, 1))(x), x)
