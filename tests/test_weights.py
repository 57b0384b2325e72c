import argparse
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from ccnotes import models
from ccnotes.models import ConvNet, Headed, PreActResNet
from ccnotes.weights import from_eight_bits, in_eight_bits, load_weights

X = torch.ones(1, 3, 8, 8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pt"


@pytest.fixture
def source():
    torch.manual_seed(0)
    return ConvNet(4, width=2).eval()


def network():
    return ConvNet(4, width=2)


def named(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def other(weights):
    """Weights of the same shapes, as an average of weights or another network has them."""
    return {name: value + 1 for name, value in weights.items()}


def wrapped_body(weights):
    """As DataParallel around the body alone names them."""
    return {name.replace("body.", "body.module."): value for name, value in weights.items()}


def test_weights_are_loaded_from_where_they_were_before():
    assert models.load_weights is load_weights


@pytest.mark.parametrize(
    "nest", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"net": w}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_weights_are_found_as_others_save_them(nest, prefix, path, source):
    given = network().eval()
    torch.save(nest(named(prefix, source.state_dict())), path)
    before = given(X)
    loaded = load_weights(given, path)
    assert torch.equal(loaded(X), source(X))
    assert torch.equal(given(X), before)
    assert not loaded.training


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
    path.write_bytes(b"\x80nothing")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(network, path)


def test_a_safetensors_file_is_read_too(tmp_path, source):
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(load_weights(network(), tmp_path / "w.safetensors")(X), source(X))


@pytest.mark.parametrize(
    "rename",
    [
        wrapped_body,
        lambda w: {"state_dict": named("module.", wrapped_body(w))},
        lambda w: named("_orig_mod.", w),
        lambda w: named("module._orig_mod.", w),
        lambda w: {name.replace("body.", "body._orig_mod."): value for name, value in w.items()},
    ],
    ids=["body alone", "body and all", "compiled", "compiled and parallel", "body compiled"],
)
@pytest.mark.parametrize("wrap", [lambda n: n, nn.DataParallel], ids=["bare", "parallel"])
def test_names_that_wrappers_put_in_the_middle_do_not_matter(rename, wrap, path, source):
    torch.save(rename(source.state_dict()), path)
    assert torch.equal(load_weights(wrap(network()), path)(X), source(X))


def madry(weights):
    """As the robustness library saves them: all weights twice, beside two normalisers."""
    model = named("module.model.", weights) | named("module.attacker.model.", weights)
    model["module.normalizer.new_mean"] = model["module.attacker.normalize.new_std"] = X
    return {"model": model, "epoch": 3, "optimizer": {"state": {0: {"momentum_buffer": X}}}}


@pytest.mark.parametrize(
    ("save", "left"),
    [
        (madry, "model.module.normalizer.new_mean, model.module.attacker.normalize.new_std"),
        (
            lambda w: {"state_dict": named("net.", w) | {"criterion.weight": X}, "epoch": 3},
            "state_dict.criterion.weight",
        ),
        (lambda w: {"n_averaged": torch.tensor(3)} | named("module.", w), "n_averaged"),
        (lambda w: w | {f"extra.{i}": X for i in range(9)}, "extra.0, extra.1, extra.2 and 6 more"),
        (
            lambda w: {"state_dict": w, "ema": {k: v + 1 for k, v in w.items() if "head" not in k}},
            r"ema.body.0.mean \(1.5, 1.5, 1.5\), ema.body.0.std \(1.25, 1.25, 1.25\), "
            "ema.body.1.weight and 17 more",
        ),
    ],
    ids=["robustness", "lightning", "swa", "many", "half an average"],
)
def test_what_lies_beside_the_weights_is_left_out_and_named(save, left, path, source):
    torch.save(save(source.state_dict()), path)
    with pytest.warns(UserWarning, match=rf"w.pt holds more than the weights; left out: {left}\."):
        loaded = load_weights(network(), path)
    assert torch.equal(loaded(X), source(X))


def test_mean_and_std_of_a_wrapped_network_are_named_when_they_are_left_out(path, source):
    torch.save(Headed(source, mean=(0.4,), std=(0.2,)).state_dict(), path)
    with pytest.warns(UserWarning, match=r"left out: normalize.mean \(0.4\), normalize.std"):
        assert torch.equal(load_weights(network(), path)(X), source(X))


SEVERAL = {
    "beside": lambda w: {"state_dict": w, "state_dict_ema": other(w)},
    "flat": lambda w: named("model.", w) | named("ema_model.", other(w)),
    "bare": lambda w: w | named("ema.", other(w)),
    "bare and last": lambda w: named("ema.", other(w)) | w,
    "wrapped": lambda w: w | named("module.", other(w)),
    "in the middle": lambda w: wrapped_body(w) | named("ema.", wrapped_body(other(w))),
}


@pytest.mark.parametrize(
    ("save", "raw", "average"),
    [
        ("beside", "state_dict.", "state_dict_ema."),
        ("flat", "model.", "ema_model."),
        ("bare", "", "ema."),
        ("bare and last", "", "ema."),
        ("wrapped", "", "module."),
        ("in the middle", "", "ema."),
    ],
)
def test_raw_and_averaged_weights_in_one_file_are_a_question(save, raw, average, path, source):
    torch.save(SEVERAL[save](source.state_dict()), path)
    either = f"('{raw}', '{average}'|'{average}', '{raw}')"
    with pytest.raises(ValueError, match=rf"Choose one by prefix=..., of {either}"):
        load_weights(network(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = load_weights(network(), path, prefix=raw)
        warnings.simplefilter("error")  # what was not chosen is no surprise
        second = load_weights(network(), path, prefix=average.removesuffix("."))
    assert torch.equal(first(X), source(X))
    expected = network().eval()
    expected.load_state_dict(other(source.state_dict()))
    assert torch.equal(second(X), expected(X))


@pytest.mark.parametrize("inner", ["module.", "_orig_mod.module."])
def test_an_average_whose_names_a_wrapper_changed_is_a_question_too(inner, path):
    """In the middle, so that its names fit only without the wrapper's."""
    raw, average = (nn.Sequential(nn.Sequential(nn.Linear(2, 2))) for _ in range(2))
    ema = {key.replace("0.", f"0.{inner}", 1): v for key, v in average.state_dict().items()}
    torch.save({"model": raw.state_dict(), "ema": ema}, path)
    with pytest.raises(ValueError, match=r"Choose one by prefix=..., of 'model\.', 'ema\.'"):
        load_weights(raw, path)
    for prefix, expected in (("model", raw), ("ema", average)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_weights(raw, path, prefix=prefix)
        assert torch.equal(loaded[0][0].weight, expected[0][0].weight)


def test_the_same_weights_twice_are_no_question(path, source):
    torch.save({"state_dict": source.state_dict(), "ema": source.state_dict()}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_weights(network(), path)(X), source(X))


def test_names_that_differ_by_a_wrapper_alone_are_not_mixed_up(path, source):
    """Which of the two weights of one layer is meant nobody can tell."""
    weights = source.state_dict()
    torch.save(wrapped_body(weights) | {"body.1.weight": weights["body.1.weight"] + 1}, path)
    with pytest.raises(ValueError, match=r"does not fit: it lacks body.0.mean"):
        load_weights(network(), path)


def test_a_prefix_that_is_not_there_is_answered_by_names_that_are(path, source):
    torch.save({"state_dict": source.state_dict()}, path)
    with pytest.raises(ValueError, match=r"begins with 'ema\.'\. It has state_dict.body.0.mean"):
        load_weights(network(), path, prefix="ema")


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (np.float64(0.9), "numpy.*scalar"),
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_objects_beside_the_weights_get_our_own_remedy(extra, name, path, source):
    torch.save({"state_dict": source.state_dict(), "extra": extra}, path)
    with pytest.raises(ValueError, match=rf"{name} lies beside .* Save the weights alone") as error:
        load_weights(network(), path)
    assert "weights_only" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_no_state_dict(path):
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(ValueError, match=r"cannot be read as weights .*TorchScript"):
        load_weights(nn.Linear(2, 2), path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.pth.tar"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is empty: .*Fetch it again\."),
        (POINTER, r"is a pointer of Git LFS .*`git lfs pull`"),
        (
            "<!DOCTYPE html>\n<title>Sign in</title>" * 99,
            r"is text, .*DOCTYPE html.*Fetch the file",
        ),
        ("Not Found", r"is text, .*'Not Found'"),
        ("é" * 333, r"is text, "),
        ("x" + "é" * 333, r"is text, "),
    ],
    ids=["empty", "LFS", "page", "line", "even", "odd"],
)
def test_files_that_are_no_weights_are_called_what_they_are(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path} {message}"):
        load_weights(network(), path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_cut_off_or_is_not_there_is_named(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"{path} cannot be read .*No such file"):
        load_weights(network(), path)
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=f"{path} cannot be read as weights"):
        load_weights(network(), path)


def test_nan_is_named(path, source):
    weights = source.state_dict()
    weights["body.5.bias"][0] = torch.nan
    torch.save(weights, path)
    with pytest.raises(
        ValueError, match=r"NaN or infinity in body.5.bias: take an earlier checkpoint"
    ):
        load_weights(network(), path)


def test_what_does_not_fit_is_counted_not_listed(path, source):
    torch.save(PreActResNet(4, width=2).state_dict(), path)
    with pytest.raises(ValueError, match=r"lacks .* and \d+ more; it has .* and \d+ more") as error:
        load_weights(network(), path)
    assert len(str(error.value)) < 500
    torch.save(source.state_dict(), path)
    with pytest.raises(ValueError, match=r"Load it into the network called 'network' in this one"):
        load_weights(Headed(network()), path)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "rewrite",
    [
        utils.weight_norm,
        utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["old weight norm", "old spectral norm", "weight norm", "spectral norm", "pruned"],
)
def test_weights_that_are_computed_are_those_of_the_file(rewrite, path):
    """At once, and after a forward pass of the network that was given."""
    torch.manual_seed(0)
    source, given = (
        nn.Sequential(nn.Flatten(), rewrite(nn.Linear(192, 4))).eval() for _ in range(2)
    )
    before = given(X)
    torch.save(source.state_dict(), path)
    expected, loaded = source(X), load_weights(given, path)
    assert torch.equal(loaded[1].weight, source[1].weight)
    assert torch.equal(loaded(X), expected)
    assert torch.equal(given(X), before)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_old_weight_norm_s_file_fits_the_new_one(path):
    source = nn.Sequential(nn.Flatten(), utils.weight_norm(nn.Linear(192, 4)))
    torch.save(source.state_dict(), path)
    given = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(192, 4)))
    torch.testing.assert_close(load_weights(given, path)(X), source(X))


def test_weights_loaded_in_inference_mode_can_be_attacked(path, source):
    torch.save(source.state_dict(), path)
    with torch.inference_mode():
        loaded = load_weights(network(), path)
    assert not any(weight.is_inference() for weight in loaded.parameters())


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_quantised_weights_are_refused(dtype, prefix, path, source):
    """Their numbers count steps of a scale that is not applied; counters are integers rightly."""
    weights = source.state_dict()
    weights["head.weight"] = weights["head.weight"].to(dtype)
    torch.save(named(prefix, weights), path)
    with pytest.raises(
        ValueError, match=rf"{dtype} in {prefix}head.weight, .* quantised; dequantise first"
    ):
        load_weights(network(), path)


def test_weights_in_half_precision_are_weights(path, source):
    torch.save({name: value.bfloat16() for name, value in source.state_dict().items()}, path)
    expected = source.head.weight.bfloat16().float()
    assert torch.equal(load_weights(network(), path).head.weight, expected)


def test_a_flipped_bit_is_noticed_by_the_file_s_checksums(path):
    network = nn.Linear(2, 2)
    network.weight.data.fill_(0.3)
    torch.save(network.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[content.index(network.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data/\d has another checksum than when it was written"):
        load_weights(network, path)


def test_files_of_the_old_format_without_checksums_are_read(path, source):
    torch.save(source.state_dict(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(network(), path)(X), source(X))


def test_weights_in_eight_bits_are_off_by_half_a_step_at_most():
    """The step of each output channel is its largest weight over 127; all else is as it was."""
    torch.manual_seed(0)
    model = PreActResNet(10, width=4)
    before = model.state_dict()
    again = from_eight_bits(in_eight_bits(before))
    assert again.keys() == before.keys()
    for name, value in before.items():
        if value.ndim == 4:
            step = value.abs().amax((1, 2, 3), keepdim=True) / 127
            assert ((again[name] - value).abs() <= step / 2 * (1 + 1e-5)).all()
            assert not torch.equal(again[name], value)
        else:
            assert torch.equal(again[name], value)
    assert from_eight_bits(before).keys() == before.keys()


def test_weights_that_overflow_when_they_are_loaded_are_refused(tmp_path):
    model = nn.Linear(2, 2)
    wide = {name: value.double() * 1e60 for name, value in model.state_dict().items()}
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"holds NaN or infinity in weight, bias"):
        load_weights(model, tmp_path / "wide.pt")
