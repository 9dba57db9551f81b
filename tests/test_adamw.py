"""The paper's optimiser: PyTorch's, but for the limit; the average, every 25th time."""

import math

import pytest
import torch

from minidalle.adamw import Moments, adamw, averaged, half_life


def nothing(weight: torch.Tensor) -> Moments:
    """Moments before the first update."""
    return Moments(torch.zeros_like(weight), torch.zeros_like(weight))


@pytest.mark.parametrize("decay", [0.0, 4.5e-2])
def test_without_a_limit_it_is_pytorchs(decay):
    """Thirty updates with the paper's settings, weights and both moments."""
    weight = torch.randn(4, 5, dtype=torch.float64)
    theirs = weight.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], 4.5e-4, (0.9, 0.96), 1e-8, weight_decay=decay)
    moments = nothing(weight)
    for step in range(1, 31):
        theirs.grad = torch.randn_like(weight) * step
        optimizer.step()
        weight, moments = adamw(weight, theirs.grad, moments, step, decay=decay, limit=math.inf)
    torch.testing.assert_close(weight, theirs.detach())
    torch.testing.assert_close(moments.first, optimizer.state[theirs]["exp_avg"])
    torch.testing.assert_close(moments.second, optimizer.state[theirs]["exp_avg_sq"])


def test_one_huge_gradient_does_not_stop_a_weight():
    """After a gradient of 1000 a weight without a limit stands still for hundreds of updates; the limit of 5
    lets it go on at once, and no second moment is ever above it."""
    moved = {}
    for limit in (5.0, math.inf):
        weight, moments = torch.zeros(1), nothing(torch.zeros(1))
        for step in range(1, 131):
            gradient = torch.full((1,), 1000.0 if step == 100 else 1.0)
            before = weight
            weight, moments = adamw(weight, gradient, moments, step, decay=0.0, limit=limit)
            moved[limit] = float(before - weight)
            assert moments.second.max() <= limit
    assert moved[5.0] > 3 * moved[math.inf]


def test_nothing_is_changed_in_place():
    """Weight, gradient, moments and average are as before."""
    tensors = [torch.randn(3) for _ in range(3)] + [torch.rand(3)]
    copies = [t.clone() for t in tensors]
    adamw(tensors[0], tensors[1], Moments(*tensors[2:]), 1)
    averaged(tensors[0], tensors[1], 25)
    assert all(map(torch.equal, tensors, copies))


def test_there_is_no_step_before_the_first():
    """Its correction would divide by 0."""
    with pytest.raises(ValueError, match="step 1, not 0"):
        adamw(torch.zeros(1), torch.ones(1), nothing(torch.zeros(1)), 0)


def test_the_average_moves_at_every_25th_update():
    """By a hundredth of the way; in between it is the very same tensor."""
    average, weight = torch.zeros(2), torch.ones(2)
    for step in range(1, 51):
        after = averaged(average, weight, step)
        assert (after is average) == (step not in (25, 50))
        average = after
    torch.testing.assert_close(average, torch.full((2,), 1 - 0.99**2))


def test_the_average_forgets_half_in_its_half_life():
    """Of a weight that jumps from 0 to 1, after 1,724 updates."""
    assert half_life() == pytest.approx(1724, abs=1)
    average = torch.zeros(1)
    for step in range(1, round(half_life()) + 1):
        average = averaged(average, torch.ones(1), step)
    assert average.item() == pytest.approx(0.5, abs=0.01)
