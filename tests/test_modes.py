"""The modes that a block is run in, and that they are put back."""

import pytest
import torch
from torch import nn

from ccnotes.modes import evaluating, recording, usable


class Merging(nn.Linear):
    """As a layer of LoRA: in eval mode what was added lies in the weights."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -1 if mode else 1
            self.merged = not mode
        return self


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_change_their_weights_for_eval_mode_are_put_back(frozen):
    """Alone, and around a layer that is in another mode."""
    layer = Merging(3, 3)
    layer.weight.data.zero_()
    layer.norm = nn.BatchNorm1d(3)
    layer.inner = Merging(3, 3)
    layer.inner.weight.data.zero_()
    model = nn.Sequential(layer, nn.BatchNorm1d(3).eval(), nn.Dropout())
    layer.norm.eval()
    layer.inner.train(not frozen)
    before = [m.training for m in model.modules()]
    weights = [layer.weight.clone(), layer.inner.weight.clone()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
        assert (layer.weight == 1).all()
        assert (layer.inner.weight == 1).all()
    assert [m.training for m in model.modules()] == before
    assert torch.equal(layer.weight, weights[0])
    assert torch.equal(layer.inner.weight, weights[1])


def test_gradients_are_recorded_whatever_is_switched_off_around():
    """And what was made in inference mode can be used."""
    with torch.inference_mode():
        made = torch.ones(2)
        with recording():
            values = usable(made).requires_grad_()
            (gradient,) = torch.autograd.grad((values**2).sum(), values)
        assert not torch.is_grad_enabled()
    assert gradient.tolist() == [2.0, 2.0]
    assert usable(gradient) is not gradient
    assert not usable(torch.ones(2, requires_grad=True) * 2).requires_grad
