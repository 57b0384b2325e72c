"""What a run starts from, and what could not be trained."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ccnotes import models, setup
from ccnotes.attacks import PGD
from ccnotes.data import Split, to_float
from ccnotes.experiments import EXPERIMENTS, dataset
from ccnotes.objectives import Objective
from ccnotes.planted import Planted
from ccnotes.records import PUBLISHED, find, run
from ccnotes.setup import (
    bfloat16_is_sound,
    build,
    channel_statistics,
    check_teacher,
    compiling_pays,
    operations,
    stream,
)
from tests.helpers import SMALL

pytestmark = pytest.mark.usefixtures("no_published")


def test_uses_of_randomness_share_no_stream():
    uses = ("weights", "order", "augmentation", "attack")
    assert len({stream(seed, use) for seed in range(100) for use in uses}) == 400


def test_initial_weights_follow_from_the_seed_alone():
    """Neither from images nor from numbers drawn before; and drawing them leaves no trace."""
    data, other = dataset(SMALL), dataset(replace(SMALL, seed=9))
    torch.manual_seed(1)
    first = build(SMALL, data)
    drawn = torch.rand(3)
    again, changed = build(SMALL, other), build(replace(SMALL, seed=9), data)
    for (name, weight), same, new in zip(
        first.named_parameters(), again.parameters(), changed.parameters(), strict=True
    ):
        assert torch.equal(weight, same)
        assert torch.equal(weight, new) == ("head" not in name and weight.ndim == 1)  # BatchNorm's
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_a_network_normalises_its_input_by_the_statistics_of_the_training_images():
    """So that images of other brightness and contrast, channel by channel, make no difference."""
    e, data = SMALL, dataset(SMALL)
    bright = torch.randint(2, data.train.images.shape, generator=torch.manual_seed(0)).byte() * 204
    dim = (bright * torch.tensor([1, 0.5, 0.25]).view(3, 1, 1)).byte()
    logits = []
    for images in (bright, dim):
        train = Split(images=images, labels=data.train.labels)
        model = build(e, replace(data, train=train)).eval()
        logits.append(model(to_float(images)))
    # Means and deviations have four digits, of which the least have three that count.
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("head", "mates", "strangers"),
    # Rows a_c + b_g, orthonormal, less their mean over 6 classes in 3 groups: lengths squared
    # 2 - 3 / 6, products inside 1 - 3 / 6, across 0 - 3 / 6.
    [("simplex", -1 / 5, -1 / 5), ("groups", 1 / 3, -1 / 3)],
)
def test_rows_of_a_fixed_head_have_one_length_and_the_angles_of_their_groups(
    head, mates, strangers
):
    e = replace(SMALL, head=head, head_norm=1.5)
    rows = build(e, dataset(e)).head
    cosines = (rows.weight @ rows.weight.T / 1.5**2).detach()
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    wanted = torch.where(groups[:, None] == groups, mates, strangers).fill_diagonal_(1.0)
    torch.testing.assert_close(cosines, wanted, atol=1e-5, rtol=0)
    assert not rows.bias.any()


def test_a_fixed_head_needs_room_and_for_groups_groups():
    e = replace(SMALL, head="groups", width=1)
    with pytest.raises(ValueError, match=r"^4 features are too few .* needs 9: raise width"):
        build(e, dataset(e))
    data = replace(dataset(SMALL), groups=None)
    with pytest.raises(ValueError, match="choose head='simplex'"):
        build(replace(SMALL, head="groups"), data)


def test_a_teacher_of_other_classes_is_refused_before_training():
    stranger = run(replace(SMALL, planted=Planted(num_classes=4)))
    path = str(stranger.folder / "best.safetensors")
    e = replace(SMALL, objective=Objective(teachers=(path,), teacher_weights=(0.5,)))
    with pytest.raises(ValueError, match=r"knows 4 classes, the student 6: choose a teacher"):
        run(e)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5], "std": [0.25]}, "knows 1 channels, the student 3"),
        ({"mean": [0.0] * 3}, r"mean of pixels in \[0, 1\] that is 0.500 away"),
        ({"std": [1.0] * 3}, "std of pixels .* that is 0.750 away"),
    ],
)
def test_a_teacher_of_other_images_is_refused(settings, message):
    stranger = models.ConvNet(6, width=4, **settings)
    with pytest.raises(ValueError, match=message):
        check_teacher("stranger", stranger, models.ConvNet(6, width=4))


def test_channel_statistics_are_those_of_the_pixels():
    images = dataset(SMALL).train.images
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5.1e-5)
    assert std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=5.1e-5)


@pytest.mark.parametrize("model", ["convnet", "preactresnet"])
def test_operations_are_those_that_a_run_s_passes_make(model):
    """Against torch's own count of one forward pass; the head's few are left out."""
    e = replace(SMALL, model=model, epochs=3, attack=PGD(steps=5))
    data = dataset(e)
    network = build(e, data)
    with FlopCounterMode(display=False) as counter:
        maps = network.body(to_float(data.train.images))
    assert len(maps) == 24
    forward = counter.get_total_flops()
    assert operations(e, data) == forward * 3 * (2 * 5 + 3)
    standard = replace(e, attack=PGD(eps=0, step_size=0))
    assert operations(standard, data) == forward * 3 * 3


CPU = torch.device("cpu")


def test_long_runs_alone_are_compiled_on_processors_and_every_run_on_cuda(monkeypatch):
    data, asked = dataset(SMALL), []
    monkeypatch.setattr(setup, "check_compiler", lambda device: asked.append(device.type))
    assert not compiling_pays(SMALL, data, CPU)
    monkeypatch.setattr(setup, "LONG", operations(SMALL, data))
    assert compiling_pays(SMALL, data, CPU)
    assert not compiling_pays(replace(SMALL, epochs=3), data, CPU)
    assert compiling_pays(replace(SMALL, epochs=3), data, torch.device("cuda"))
    assert not compiling_pays(SMALL, data, torch.device("mps"))
    assert asked == ["cpu", "cuda"]


def test_further_seeds_of_photographs_are_compiled_or_not_as_those_on_record():
    """On processors; runs of full size were made on a card."""
    for record in find(within=[PUBLISHED]):
        name = record.configuration.name
        if (e := EXPERIMENTS.get(name)) and "full" not in name and e.drawn is None:
            images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(e.train_size, -1, -1, -1)
            train = Split(images=images, labels=torch.zeros(e.train_size).long())
            data = replace(dataset(SMALL), train=train, classes=tuple("0123456789"))
            was = record.provenance.get("compiled", False)
            assert compiling_pays(e, data, CPU) == was, name


def test_where_torch_cannot_compile_a_line_says_what_is_missed(monkeypatch, capsys):
    def compile(function, **how):
        raise OSError("g++ not found\nand more")

    setup.check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(setup, "LONG", 0)
    assert not run(SMALL).provenance["compiled"]
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "torch.compile" in x)
    assert line.startswith("torch.compile does not work here (OSError: g++ not found). Install a")
    assert line.endswith("Compiled it would take up to a quarter less time.")
    with pytest.raises(RuntimeError, match=r"^torch.compile does not work here \(OSError"):
        run(SMALL, fresh=True, compile=True)


@pytest.mark.parametrize(
    ("model", "size", "sound"),
    # Of 4 x 4 pixels the third stage leaves one, which the fourth is given with a stride of 2.
    [("preactresnet", 4, False), ("preactresnet", 8, True), ("convnet", 4, True)],
)
def test_bfloat16_is_left_where_a_stride_is_given_a_single_pixel(model, size, sound, monkeypatch):
    """oneDNN's gradient of such a convolution's weights has other numbers in each run."""
    settings = Planted(image_size=size, pattern_size=4)
    e = replace(SMALL, model=model, planted=settings, batch_size=12, precision="bfloat16")
    cpu = torch.device("cpu")
    assert bfloat16_is_sound(e, dataset(e), cpu) == sound
    assert bfloat16_is_sound(e, dataset(e), torch.device("cuda"))
    monkeypatch.setattr("ccnotes.records.runner.pick_precision", lambda *_: "bfloat16")
    if not sound:
        with pytest.raises(ValueError, match="a stride that is given a single pixel"):
            run(e)
    auto = run(replace(e, precision="auto", epochs=1, eval_every=1))
    assert auto.provenance["precision"] == ("bfloat16" if sound else "float32")
