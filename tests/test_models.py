import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ccnotes.attacks import PGD
from ccnotes.evaluation import evaluate
from ccnotes.models import ConvNet, Headed, PreActBlock, PreActResNet, load_weights

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
    own = network(4, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)).eval()
    own.load_state_dict(plain.state_dict() | {k: own.state_dict()[k] for k in NORMALISATION})
    x = torch.rand(3, 3, 16, 16)
    moved = x * torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
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
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


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
    "nest", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"net": w}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_weights_are_found_as_others_save_them(nest, prefix, tmp_path):
    torch.manual_seed(0)
    source, other = (ConvNet(4, width=2).eval() for _ in range(2))
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(nest(weights), tmp_path / "w.pt")
    before = other(torch.ones(1, 3, 8, 8))
    loaded = load_weights(other, tmp_path / "w.pt")
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(loaded(x), source(x))
    assert torch.equal(other(x), before)


def test_a_network_whose_own_names_begin_with_module_takes_its_weights(tmp_path):
    torch.manual_seed(0)
    source, other = (nn.DataParallel(ConvNet(4, width=2)).eval() for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(load_weights(other, tmp_path / "w.pt")(x), source(x))


def test_weights_that_do_not_fit_are_named(tmp_path):
    network, path = ConvNet(4, width=2), tmp_path / "w.pt"
    torch.save(ConvNet(6, width=2).state_dict(), path)
    with pytest.raises(ValueError, match=r"(?s)w.pt does not fit: .*head.bias.*number of classes"):
        load_weights(network, path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(network, path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(network, path)
