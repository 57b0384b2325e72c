"""Other people's networks and checkpoint series, laid out as their programs write them."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from ccnotes.attacks import PGD
from ccnotes.attribution import cas, class_similarity
from ccnotes.data import sha256_of
from ccnotes.evaluation import evaluate
from ccnotes.foreign import checkpoints, network_named, series
from ccnotes.models import ConvNet, Headed
from ccnotes.networks import PreActResNet
from ccnotes.planted import planted
from ccnotes.records import PUBLISHED
from ccnotes.weights import is_moment, load_weights, with_weights
from tests.foreign_preactresnet import Foreign
from tests.helpers import folder_of_images

FILE = Path(__file__).with_name("foreign_preactresnet.py")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
ATTACK = PGD(eps=0.02, step_size=0.01, steps=2)


def foreign(seed):
    torch.manual_seed(seed)
    model = Foreign(num_classes=6).eval()
    model.linear.weight.data.mul_(1 + seed)
    return model


def named(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def sgd(weights):
    """What ``torch.optim.SGD`` saves after a step: a moment for each weight, by its number."""
    state = {n: {"momentum_buffer": w + 1} for n, w in enumerate(weights.values())}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": [*state]}]}


def averages(weights):
    """Another set of weights under the same names, such as their average."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}


def mair(weights):
    own = {"n_classes": torch.tensor(6), "mean": torch.tensor(MEAN), "std": torch.tensor(STD)}
    return {"rmodel": own | named("model.", weights)}


def robustbench(weights):
    """Its networks normalise in a module of their own, and many were trained in parallel."""
    buffers = {"module.mu": torch.tensor(MEAN).view(1, 3, 1, 1)}
    return {"state_dict": buffers | named("module.", weights), "best_prec1": 0.5}


def lightning(weights):
    about = {"epoch": 5, "global_step": 100, "pytorch-lightning_version": "2.4", "callbacks": {}}
    extra = {"criterion.weight": torch.ones(6)}
    return about | {
        "state_dict": named("model.", weights) | extra,
        "optimizer_states": [sgd(weights)],
    }


LAYOUTS = {  # as saved; what is said to be left out
    "ReBAT": (lambda w: w, ""),
    "Rice and KaiwenDu": (
        lambda w: {"epoch": 5, "model_state_dict": w, "optimizer_state_dict": sgd(w)},
        "",
    ),
    "MAIR": (
        mair,
        "rmodel.n_classes, rmodel.mean (0.4914, 0.4822, 0.4465), "
        "rmodel.std (0.2471, 0.2435, 0.2616)",
    ),
    "AWP": (lambda w: {"state_dict": named("module.", w), "opt_state": sgd(w)}, ""),
    "RobustBench": (robustbench, "state_dict.module.mu (0.4914, 0.4822, 0.4465)"),
    "Lightning": (lightning, "state_dict.criterion.weight"),
    "DataParallel": (lambda w: named("module.", w), ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoints_are_read_as_others_write_them(name, tmp_path):
    layout, left = LAYOUTS[name]
    source, path = foreign(1), tmp_path / "epoch_5.pt"
    torch.save(layout(source.state_dict()), path)
    model, left_out = with_weights(foreign(0), path)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x), source(x))
    assert ", ".join(left_out) == left


def test_an_average_beside_the_raw_weights_is_asked_for(tmp_path):
    source, path = foreign(1), tmp_path / "epoch_5.pt"
    weights = source.state_dict()
    torch.save({"net": weights, "ema_net": averages(weights)}, path)
    with pytest.raises(ValueError, match=r"Choose one by prefix=\.\.\., of 'net\.', 'ema_net\.'"):
        series(foreign(0), tmp_path, *images(), ATTACK)
    found = series(foreign(0), tmp_path, *images(), ATTACK, prefix="net")
    expected = evaluate(Headed(source), *images(), ATTACK).robust
    assert found.robust_accuracy.item() == expected.accuracy
    assert found.robust_cas.item() == pytest.approx(expected.cas.item())


@pytest.mark.parametrize(
    "save",
    [
        lambda w: {"optimizer": {"exp_avg": w, "exp_avg_sq": w}},
        lambda w: {"opt_state": named("m.", w)},
        lambda w: {"exp_avg": w},
        lambda w: named("momentum_buffer.", w),
    ],
)
def test_what_an_optimiser_keeps_is_never_taken_for_weights(save, tmp_path):
    """By name it fits the network as well as its weights do."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    path, weights = tmp_path / "w.pt", network.state_dict()
    torch.save(save(averages(weights)), path)
    with pytest.raises(ValueError, match=r"holds what an optimiser keeps .*, no weights"):
        load_weights(network, path)
    torch.save(save(averages(weights)) | {"weights": weights}, path)
    assert torch.equal(load_weights(network, path)[1].weight, network[1].weight)


def test_a_network_whose_own_layer_is_called_like_a_moment_is_loaded(tmp_path):
    network = nn.ModuleDict({"opt": nn.Linear(2, 2)})
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert torch.equal(
        load_weights(network, tmp_path / "w.pt")["opt"].weight, network["opt"].weight
    )


@pytest.mark.parametrize("key", ["optimal.weight", "adopt.bias", "option.weight"])
def test_words_that_only_begin_like_optimiser_are_weights(key):
    assert not is_moment(key)


def images():
    drawn = planted(24, seed=0, split="test")
    return drawn.images, drawn.labels


def saved(folder, epochs=(5, 10, 100)):
    """A series as KaiwenDu/robust-overfitting-checkpoints has it: every fifth epoch a file."""
    networks = {epoch: foreign(place) for place, epoch in enumerate(epochs)}
    for epoch, network in networks.items():
        weights = network.state_dict()
        content = {
            "epoch": epoch,
            "model_state_dict": weights,
            "optimizer_state_dict": sgd(weights),
        }
        torch.save(content, folder / f"epoch_{epoch}.pt")
    return networks


def test_a_series_says_of_each_epoch_what_its_network_does(tmp_path):
    networks = saved(tmp_path)
    found = series(foreign(9), tmp_path, *images(), ATTACK, mean=MEAN, std=STD)
    assert found.epoch.tolist() == [5, 10, 100]
    alone = {
        e: evaluate(Headed(n, mean=MEAN, std=STD), *images(), ATTACK).robust
        for e, n in networks.items()
    }
    assert found.robust_accuracy.tolist() == [m.accuracy.item() for m in alone.values()]
    assert found.robust_cas.tolist() == pytest.approx([m.cas.item() for m in alone.values()])
    best = max(alone, key=lambda epoch: alone[epoch].accuracy)
    head = networks[best].linear.weight.detach()
    mixed = [cas(class_similarity(m.class_means * head)).item() for m in alone.values()]
    assert found.cas_features.tolist() == pytest.approx(mixed)
    mixed = [
        cas(class_similarity(alone[best].class_means * n.linear.weight.detach())).item()
        for n in networks.values()
    ]
    assert found.cas_head.tolist() == pytest.approx(mixed)
    same = found[found.epoch == best]
    assert same.cas_features.item() == pytest.approx(same.robust_cas.item())
    assert found.left_out.tolist() == [""] * 3


def files(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "epochs"),
    [
        (("epoch_5.pt", "epoch_100.pt", "epoch_20.pt", "train.log"), [5, 20, 100]),
        (("epoch=3-step=120.ckpt", "epoch=12-step=480.ckpt", "last.ckpt"), [3, 12]),
        (("resnet18_ep1.pth", "resnet18_ep2.pth", "best.pth"), [1, 2]),
        (("step_100_wd5.pt", "step_20_wd5.pt"), [20, 100]),
        (("model_007.tar",), [7]),
    ],
)
def test_epochs_are_read_from_the_names(names, epochs, tmp_path):
    assert list(checkpoints(files(tmp_path, *names))) == epochs


def test_a_folder_of_several_series_is_asked_about(tmp_path):
    """As ReBAT leaves it: weights, their average, and the optimiser's state."""
    names = [f"{kind}_{n}.pth" for kind in ("model", "wa_model", "opt") for n in (9, 19)]
    files(tmp_path, *names, "model_best.pth")
    with pytest.raises(
        ValueError, match=r"model_\*\.pth \(2\), opt_\*\.pth \(2\), wa_model.*pattern"
    ):
        checkpoints(tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "model_[0-9]*.pth").values()] == [
        "model_9.pth",
        "model_19.pth",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "has no checkpoints, files that end in .pt"),
        (("best.pt", "last.pt"), "holds best.pt (1), last.pt (1), no single series"),
        (("a_1_2.pt", "a_3_4.pt"), "a_1_2.pt and a_3_4.pt differ in 2 numbers"),
        (("epoch_1_s0.pt", "epoch_1_s1.pt"), "epoch_1_s0.pt and others have the same epoch"),
    ],
)
def test_names_that_leave_the_series_open_are_refused(names, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        checkpoints(files(tmp_path, *names))


def test_networks_are_named_by_module_file_or_ours():
    assert network_named(f"{FILE}:PreActResNet18", 6).linear.out_features == 6
    assert isinstance(network_named(f"{FILE}:Foreign", 6), nn.Module)
    assert network_named("torchvision.models:resnet18", 7).fc.out_features == 7
    own = network_named("preactresnet,4", 5)
    assert isinstance(own, PreActResNet)
    assert own.head.out_features == 5
    timm = pytest.importorskip("timm")
    named = network_named("timm:test_vit,patch_size=4", 5, image_size=16)
    assert type(named) is type(timm.create_model("test_vit"))
    assert named.get_classifier().out_features == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "is no network: give timm:NAME"),
        ("preactresnet", "has no width: write it behind, as in preactresnet,64"),
        ("torchvision.models:resnet19", "torchvision.models has nothing that is called resnet19"),
        ("no_such_module:resnet", "no_such_module cannot be imported (ModuleNotFoundError"),
        ("nowhere.py:resnet", "nowhere.py cannot be imported (FileNotFoundError"),
        (f"{FILE}:nothing", "has nothing that is called nothing"),
        ("math:pi", "cannot be made"),
        ("collections:UserList", "gives UserList, no torch.nn.Module"),
    ],
)
def test_a_network_that_is_none_is_answered_by_one_line(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        network_named(name, 6)


def test_weights_of_ours_are_followed_as_ours(tmp_path):
    """They normalise by themselves."""
    torch.manual_seed(0)
    source = ConvNet(6, 4).eval()
    torch.save(source.state_dict(), tmp_path / "epoch_1.pt")
    found = series(ConvNet(6, 4), tmp_path, *images(), ATTACK)
    assert found.clean_accuracy.item() == evaluate(source, *images(), ATTACK).clean.accuracy


# --- the commands of the chapter "Your own model"


PAGE = json.loads((Path(__file__).parents[1] / "book/your_own_model.ipynb").read_text())
PROSE = "".join(text for c in PAGE["cells"] if c["cell_type"] == "markdown" for text in c["source"])
COMMANDS = re.findall(r"^python -m ccnotes (.+)", re.sub(r"\\\n *", "", PROSE), re.M)
SHORT = "--epochs 1 --train-size 24 --validation-size 24 --test-size 30".split()
SMALL = {  # for what the page names, something small that is laid out alike
    "timm:resnet18": "timm:test_resnet",
    "theirs/models/preact_resnet.py:PreActResNet18": f"{FILE}:PreActResNet18",
    "cifar10": "imagefolder:photos",
    "cifar10-at": "planted-at",
    **{"1000": "12", "10000": "24", "20": "2", "160": "4"},
}


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_runs(line, command, few_queries, tmp_path, monkeypatch):
    words = [SMALL.get(word, word) for word in shlex.split(line)]
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "photos")
    if "timm:test_resnet" in words:
        pytest.importorskip("timm")
        torch.manual_seed(0)
        network = network_named("timm:test_resnet", 6, 16)
        for name in ("runs/epoch_1.pt", "runs/epoch_2.pt", "their/model.pth"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            torch.save({"state_dict": network.state_dict()}, name)
    if words[0] == "attack":
        pytest.importorskip("pyautoattack")
        run = next(PUBLISHED.glob("planted-at-seed0-*"))
        words = [word.replace("RUN", str(run)) for word in words]
    if words[0] == "run":
        words += SHORT
    if any(word.startswith("checkpoints") for word in words):
        (tmp_path / "checkpoints").mkdir()
        saved(tmp_path / "checkpoints")
    assert command(*words)


def test_the_page_has_commands_of_all_that_it_tells():
    assert {line.split()[0] for line in COMMANDS} == {"data", "series", "attack", "run"}


def test_the_steps_for_a_public_series_run_on_files_laid_out_alike(command, tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = "--data planted --images 24 --steps 20 --csv series.csv --mean".split()
    network = ("--network", f"{FILE}:PreActResNet18")
    said = command("series", "epoch_*.pt", *network, *options, *MEAN, "--std", *STD)
    assert "24 test images of planted images, PGD-20 of radius 0.03137" in said
    table = pd.read_csv("series.csv")
    assert table.epoch.tolist() == [5, 10, 100]
    assert {"robust_cas", "cas_features", "cas_head"} <= set(table.columns)


def test_series_says_per_file_what_was_left_out(command, tmp_path):
    torch.save(mair(foreign(1).state_dict()), tmp_path / "epoch_1.pth")
    options = ("--network", f"{FILE}:Foreign", "--data", "planted", "--images", 24, "--steps", 1)
    said = command("series", tmp_path, *options)
    assert "epoch_1.pth: left out rmodel.n_classes, rmodel.mean (0.4914, 0.4822, 0.4465)" in said
    rows = json.loads(command("series", tmp_path, *options, "--json"))
    assert rows[0]["epoch"] == 1


def test_attack_gives_robust_accuracy_of_a_file_of_others_and_goes_on(
    command, tmp_path, monkeypatch, few_queries
):
    pytest.importorskip("pyautoattack")
    torch.save({"state_dict": named("module.", foreign(1).state_dict())}, tmp_path / "w.pth")
    options = (
        "--network",
        f"{FILE}:Foreign",
        "--data",
        "planted",
        "--images",
        12,
        "--eps",
        "2/255",
    )
    said = command("attack", tmp_path / "w.pth", *options)
    assert "12 test images of planted images, linf ball of radius 0.007843" in said
    assert "robust accuracy: " in said
    monkeypatch.setattr("ccnotes.robustness.attacked", lambda *_: pytest.fail("attacked again"))
    found = json.loads(command("attack", tmp_path / "w.pth", *options, "--json"))
    assert f"robust accuracy: {found['accuracy']:.1%}" in said
    assert found["attacks"]["Square"]["all"] <= found["attacks"]["PGD-50"]["all"]
    assert found["images"] == 12
    assert found["file"] == "w.pth"
    assert found["sha256"] == sha256_of(tmp_path / "w.pth")
    assert {"commit", "hardware"} <= found["provenance"].keys()
    with pytest.raises(SystemExit, match="name the images by --data"):
        command("attack", tmp_path / "w.pth", "--network", f"{FILE}:Foreign")


@pytest.mark.filterwarnings("ignore:do not trust")  # of a stand-in that finds nothing
def test_attack_of_a_run_takes_data_and_radius_from_it(command, monkeypatch):
    """Whatever AutoAttack finds, of which a command of the page above makes use."""
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr("ccnotes.robustness.by_autoattack", lambda network, x, *_: x)
    folder = next(PUBLISHED.glob("planted-at-seed0-*"))
    said = command("attack", folder / "best.safetensors", "--images", 12)
    assert "12 test images of planted images, linf ball of radius 0.06" in said
