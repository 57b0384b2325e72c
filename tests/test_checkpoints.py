"""States on disk: what is read is what was written, or refused."""

from dataclasses import replace

import pytest
import torch

from ccnotes.checkpoints import MARK, State, read_state, write_state


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "checkpoint.pt"


@pytest.fixture
def state():
    weights = {"weight": torch.arange(1000.0)}
    return State(fingerprint="abc", device="cpu", model=weights, epoch=2, evaluations=[{"x": 1.0}])


def rewritten(checkpoint, **changed):
    """The same file with other content, its checksums in order."""
    found = torch.load(checkpoint, weights_only=True) | changed
    torch.save({k: v for k, v in found.items() if v is not None}, checkpoint)


def test_a_state_comes_back_as_it_was_written(checkpoint, state):
    write_state(state, checkpoint)
    found = read_state(checkpoint, "abc", epochs=4)
    assert (found.epoch, found.batch, found.evaluations) == (2, 0, [{"x": 1.0}])
    assert torch.equal(found.model["weight"], state.model["weight"])
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]


def test_a_file_of_an_earlier_version_lacks_a_field_and_is_read_all_the_same(checkpoint, state):
    write_state(state, checkpoint)
    rewritten(checkpoint, pause=None, average=None)
    found = read_state(checkpoint, "abc", epochs=4)
    assert (found.epoch, found.pause, found.average) == (2, 0.0, {})


def test_the_best_network_of_an_earlier_version_is_judged_by_its_accuracy(checkpoint, state):
    best = {"epoch": 1, "weights": {}, "validation_robust_accuracy": 0.25}
    write_state(replace(state, best=best), checkpoint)
    assert read_state(checkpoint, "abc", epochs=4).best["score"] == [0.25]


def test_another_run_s_checkpoint_is_refused(checkpoint, state):
    write_state(state, checkpoint)
    with pytest.raises(ValueError, match=r"belongs to run abc, not to xyz\. Move it away"):
        read_state(checkpoint, "xyz", epochs=4)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fingerprint": None}, "fingerprint"),
        ({"epoch": 99}, "epoch 99"),
        ({"batch": -1}, "batch -1"),
        ({"epoch": "two"}, "epoch is of type str"),
        ({"evaluations": {}}, "evaluations is of type dict"),
        ({"total": 3}, "total is of type int"),
        ({"total": torch.ones(3)}, "total is no single number"),
        ({"evaluations": [3]}, "no dictionaries"),
        ({"best": {"epoch": 1}}, "its best network is not whole"),
    ],
)
def test_a_state_that_no_run_can_be_in_is_refused(checkpoint, state, changed, reason):
    write_state(state, checkpoint)
    rewritten(checkpoint, **changed)
    with pytest.raises(ValueError, match=f"cannot be read as a checkpoint .*{reason}.* Delete it"):
        read_state(checkpoint, "abc", epochs=4)


def test_a_flipped_bit_is_noticed_wherever_it_lies(checkpoint, state):
    """In the numbers, their headers and the directory of the file; 1 in 97 bytes, and its end."""
    write_state(state, checkpoint)
    whole = checkpoint.read_bytes()
    mark = whole.rindex(MARK)  # without which the file is one of an earlier version, and whole
    for place in (*range(0, mark, 97), *range(mark - 40, mark), *range(mark + 8, len(whole))):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        checkpoint.write_bytes(flipped)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_state(checkpoint, "abc", epochs=4)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(checkpoint, state, share):
    write_state(state, checkpoint)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint .* Delete it"):
        read_state(checkpoint, "abc", epochs=4)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(checkpoint, state, monkeypatch):
    write_state(state, checkpoint)

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("ccnotes.files.os.fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .*checkpoint.pt.* the checkpoint before stands"
    ):
        write_state(replace(state, epoch=3), checkpoint)
    assert read_state(checkpoint, "abc", epochs=4).epoch == 2
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
