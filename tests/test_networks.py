"""Architectures by name: ours, timm's, and those of other libraries."""

import sys
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations

from ccnotes import models, networks
from ccnotes.attacks import PGD
from ccnotes.attribution import class_attribution, class_means, grad_cam, on_grid
from ccnotes.data import Split, to_float
from ccnotes.evaluation import evaluate, features_of, stage_similarity
from ccnotes.experiments import Experiment, dataset
from ccnotes.models import Headed
from ccnotes.networks import FromTimm, PreActBlock, PreActResNet, network_called
from ccnotes.records import load_model, run, write_cams
from ccnotes.setup import build
from tests.helpers import SMALL

NAMES = ["preactresnet-34", "wideresnet-28", "wideresnet-34", "vit-ti", "deit-ti"]
TIMM = "timm:test_resnet"


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def drawn(count=12, side=32, classes=3):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, 3, side, side), generator=generator).byte()
    return images, torch.arange(count) % classes


def needs_timm(name):
    if name.startswith("timm:") or name in networks.TRANSFORMERS:
        pytest.importorskip("timm")


def test_networks_are_found_where_they_were_before():
    assert models.NETWORKS is networks.NETWORKS
    assert models.PreActResNet is PreActResNet


@pytest.mark.parametrize(
    ("name", "width", "weights"),
    [("wideresnet-28", 160, 36_479_194), ("wideresnet-34", 160, 46_160_474)],
)
def test_wide_resnets_have_as_many_weights_as_those_of_the_field(name, width, weights):
    """WideResNet-28-10 and -34-10 for ten classes, as Zagoruyko's and TRADES's code has them."""
    with torch.device("meta"):
        assert parameters(network_called(name, 10, width)) == weights


@pytest.mark.parametrize("layers", [18, 34])
def test_preactresnets_have_the_convolutions_of_torchvision_s(layers):
    with torch.device("meta"):
        reference = getattr(torchvision.models, f"resnet{layers}")()
        own = network_called("preactresnet" + "-34" * (layers == 34), 10, 64)

    def wide(network):
        return [
            tuple(m.weight.shape)
            for m in network.modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.in_channels > 3
        ]

    assert wide(own) == wide(reference)


def test_deit_ti_and_vit_ti_have_the_size_of_the_original():
    """5.7 M weights at 224 pixels and patches of 16, of which patches and places depend on both."""
    pytest.importorskip("timm")
    with torch.device("cpu"):
        own = network_called("deit-ti", 10, 192)
    plain = 12 * (12 * 192**2 + 13 * 192) + 2 * 192  # blocks and the last norm
    assert parameters(own) == plain + (3 * 16 + 1) * 192 + (64 + 2) * 192 + 193 * 10
    assert own.trunk.blocks[0].attn.num_heads == 3


@pytest.mark.parametrize("name", ["resnet10t,stem_width=8", "test_vit,patch_size=8"])
def test_a_network_of_timm_gives_what_timm_s_own_does(name):
    timm = pytest.importorskip("timm")
    plain, argument = name.split(",")
    key, value = argument.split("=")
    sized = {"img_size": 32} if plain == "test_vit" else {}
    torch.manual_seed(0)
    reference = timm.create_model(plain, num_classes=5, **{key: int(value)}, **sized).eval()
    own = network_called(f"timm:{name}", 5, 32, mean=(0.4,) * 3, std=(0.2,) * 3).eval()
    own.trunk.load_state_dict(reference.state_dict(), strict=False)
    own.head.load_state_dict(reference.get_classifier().state_dict())
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(own(x), reference((x - 0.4) / 0.2))


@pytest.mark.parametrize("name", [*NAMES, TIMM])
def test_every_architecture_is_analysed_like_ours(name):
    """Attribution sums to the mean logit, less the bias; the last stage has the usual matrix."""
    needs_timm(name)
    torch.manual_seed(0)
    images, labels = drawn()
    model = network_called(name, 3, 8).eval()
    features = features_of(model, images, labels)
    logits = model(to_float(images)).detach()
    means = class_attribution(features, labels, model.head.weight.detach()).sum(1)
    expected = class_means(logits, labels, 3).diagonal() - model.head.bias.detach()
    torch.testing.assert_close(means, expected, atol=1e-4, rtol=1e-4)  # sums of float32
    attack = PGD(eps=0.0, steps=1)
    stages = stage_similarity(model, Split(images=images, labels=labels), attack)
    found = evaluate(model, images, labels, attack).robust.similarity
    torch.testing.assert_close(stages[-1], found, atol=1e-4, rtol=1e-4)
    assert len(stages) == len(model.stages) > 0


@pytest.mark.parametrize("name", ["wideresnet-28", "vit-ti", TIMM])
def test_every_architecture_is_trained_by_the_same_call(name):
    needs_timm(name)
    width = {} if name == TIMM else {"width": 8}
    e = replace(SMALL, **({"width": Experiment.width} | width), model=name, epochs=1)
    record = run(e)
    assert record.finished
    model = load_model(record.folder / "best.safetensors")
    test = dataset(e).test
    found = evaluate(model, test.images, test.labels, e.eval_attack, seed=e.seed)
    assert found.robust.accuracy.item() == pytest.approx(record.best["robust_accuracy"])
    assert record.arrays["best_robust_stage_similarity"].shape == (len(model.stages), 6, 6)
    write_cams(record)
    assert record.cams["best"].ndim == 3


def test_a_transformer_is_made_for_the_images_of_its_data():
    pytest.importorskip("timm")
    e = replace(SMALL, model="vit-ti", width=12)
    model = build(e, dataset(e))
    assert model.image_size == 16
    assert model.tokens == (1, 4, 4)


def test_grad_cam_of_a_transformer_has_its_patches_as_places():
    """What is drawn at a place changes the map there, and the class token is no place."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = network_called("vit-ti", 3, 12).eval()
    x, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    layer, channels = model.places
    tokens = grad_cam(model, layer, x, labels, channels=channels)
    assert tokens.shape == (2, 65)
    maps = on_grid(tokens, 8, 8)
    assert torch.equal(maps[0, 2, 3], tokens[0, 1 + 2 * 8 + 3])
    assert maps.any()
    with pytest.raises(ValueError, match="65 tokens are not 8 x 8 places and prefix=2"):
        on_grid(tokens, 8, 8, prefix=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1000", r"has no network 'resnet1000'\. Did you mean .*resnet\d+"),
        ("timm:vit_tiny_patch16_224,patch", "'patch' is no argument of a network of timm"),
        ("timm:test_vit,patch_size=32", r"cannot take images of 16 x 16 pixels .*divisible"),
        ("timm:inception_v3", "cannot take images of 16 x 16 pixels .*[Kk]ernel"),
        ("timm:vit_tiny_patch16_224,heads=3", "timm:vit_tiny_patch16_224,heads=3 cannot be made"),
    ],
)
def test_what_timm_cannot_make_is_answered_by_one_line(name, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        network_called(name, 3, 32, image_size=16)


def test_names_that_are_none_and_widths_that_change_nothing_are_refused():
    with pytest.raises(ValueError, match=r"model='resnet18' is not one of .*'timm:NAME'"):
        Experiment(model="resnet18")
    with pytest.raises(ValueError, match="width=8 changes nothing of model='timm:resnet18'"):
        Experiment(model="timm:resnet18", width=8)


def test_timm_is_asked_for_in_one_line_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ccnotes\[timm\]'"):
        network_called("vit-ti", 3, 12)


USUAL = """resnet18 resnet50 resnext26ts densenet121 repvgg_a0 efficientnet_b0 regnety_002
mobilenetv3_small_050 convnext_atto vit_tiny_patch16_224 deit_tiny_distilled_patch16_224
mixer_s32_224""".split()


def of_timm(name):
    timm = pytest.importorskip("timm")
    sized = {"img_size": 64} if name.endswith("224") else {}
    return timm.create_model(name, num_classes=3, **sized)


def of_transformers():
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape = library.ViTConfig(
        **sizes, intermediate_size=48, image_size=64, patch_size=16, num_labels=3
    )
    return library.ViTForImageClassification(shape)


def of_torchvision(name):
    return getattr(torchvision.models, name)(num_classes=3)


def shallow():
    blocks = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(blocks, [1, 1, 1, 1], num_classes=3)


STRANGERS = {name: lambda name=name: of_timm(name) for name in USUAL} | {
    "transformers ViT": of_transformers,
    "torchvision resnet18": lambda: of_torchvision("resnet18"),
    "torchvision convnext_tiny": lambda: of_torchvision("convnext_tiny"),
}
TWO_HEADS = ("deit_tiny_distilled_patch16_224",)  # its logits are the mean of two layers'


def agrees(network, dtype=torch.float32, atol=1e-4):
    """Our accuracy and attribution beside what the network itself gives."""
    images, labels = drawn(6, 64)
    found = evaluate(Headed(network), images, labels, PGD(eps=0.0, steps=1)).clean
    with torch.no_grad():
        output = network.eval()(to_float(images).to(dtype))
    logits = getattr(output, "logits", output).float()
    assert found.accuracy == (logits.argmax(1) == labels).float().mean()
    head = Headed(network).head
    own = class_means(logits, labels, 3).diagonal() - head.bias.detach().float()
    sums = (found.class_means.float() * head.weight.detach().float()).sum(1)
    torch.testing.assert_close(sums, own, atol=atol, rtol=atol)


@pytest.mark.filterwarnings("ignore:100.0%")  # a new mixer has no gradient, and is not attacked
@pytest.mark.parametrize("name", STRANGERS)
def test_networks_of_other_libraries_are_right_or_refused_in_one_line(name):
    torch.manual_seed(0)
    network = STRANGERS[name]()
    if name in TWO_HEADS:
        with pytest.raises(ValueError, match=r"the logits of \w+ are not what its layer"):
            agrees(network)
    else:
        agrees(network)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)]
)
def test_double_and_half_precision_are_right_to_their_rounding(dtype, atol):
    torch.manual_seed(0)
    agrees(shallow().to(dtype), dtype, atol)


@pytest.mark.parametrize("norm", [utils.weight_norm, parametrizations.weight_norm])
def test_old_and_new_weight_norm_are_right(norm):
    torch.manual_seed(0)
    network = shallow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old one
        norm(network.fc)
        norm(network.layer1[0].conv1)
    agrees(network)


def test_from_timm_is_trained_in_train_mode():
    pytest.importorskip("timm")
    assert all(module.training for module in FromTimm("test_resnet", 3).modules())


@pytest.mark.parametrize("training", [False, True])
def test_compiled_blocks_scale_weights_for_maps_in_eval_mode_alone_and_give_the_same(
    training, monkeypatch
):
    """To the rounding of sums of some hundred products in float32; BatchNorm's numbers are made."""
    torch.manual_seed(0)
    block = PreActBlock(3, 5, 2)
    for norm in (block.norm1, block.norm2):
        for of in (norm.weight, norm.bias, norm.running_mean):
            nn.init.uniform_(of, -1, 2)
        norm.running_var.uniform_(0.2, 3)
    block.train(training)
    copy, x, called = deepcopy(block), torch.rand(4, 3, 8, 8), []
    copy.norm2.register_forward_hook(lambda *_: called.append(1))
    wanted = block(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = copy(x)
    assert called == [1] * training
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for out in (found, wanted):
        out.square().sum().backward()
    for one, other in zip(copy.parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
