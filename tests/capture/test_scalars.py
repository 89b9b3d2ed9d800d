"""Unreduced losses of a vector are scalars, whatever torch's shape functions say, and so is what is computed from them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import program_of

LOSSES = {
    "multilabel": (nn.MultiLabelMarginLoss, torch.tensor([1, 3, -1, 0, 2])),
    "multi": (nn.MultiMarginLoss, torch.tensor(2)),
    "multi, squared": (lambda reduction: nn.MultiMarginLoss(p=2, margin=0.7, reduction=reduction), torch.tensor([2])),
}


class Then(nn.Module):
    def __init__(self, loss, function):
        super().__init__()
        self.loss, self.function = loss, function

    def forward(self, x, target):
        return self.function(self.loss(x, target))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "function",
    [
        lambda y: y,
        lambda y: (y * 2).exp() + 1,
        lambda y: y.reshape(1, 1).expand(2, 3),
        lambda y: F.relu(y)[None],
        lambda y: y.max(),
    ],
    ids=["alone", "chain", "expanded", "row", "reduced"],
)
def test_a_vectors_loss(name, reduction, function):
    make, target = LOSSES[name]
    model, x = Then(make(reduction=reduction), function).eval(), torch.randn(5)
    fast = drystone.optimize(model, (x, target), tuning="estimate")
    torch.testing.assert_close(fast(x, target), model(x, target))
    torch.testing.assert_close(program_of(fast)([x, target])[0], model(x, target))


@pytest.mark.parametrize("name", ["multilabel", "multi"])
def test_of_a_batch_as_ever(name):
    make, target = LOSSES[name]
    x, targets = torch.randn(1, 5), target.reshape(1, -1) if name == "multilabel" else target.reshape(1)
    model = make(reduction="none").eval()
    fast = drystone.optimize(model, (x, targets), tuning="estimate")
    torch.testing.assert_close(fast(x, targets), model(x, targets))
