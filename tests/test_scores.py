"""Statistics of the scoreboard against closed forms, brute force and planted faults."""

from itertools import combinations

import pytest
import torch
from checks import assert_untouched
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from minidalle.data import to_uint8
from minidalle.scores import (
    Share,
    blur,
    chance,
    chances_to_win,
    covariance,
    expected_best,
    frechet,
    frechet_of_gaussians,
    inception,
    pairwise_difference,
    pooled,
    wilson,
    without,
)
from minidalle.world import Scene

# ------------------------------------------------------------------------------------------- shares


def test_shares_and_intervals():
    """Wilson's interval against values computed by hand; the share lies inside."""
    assert Share(50, 100).interval() == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert Share(100, 100).interval() == pytest.approx((0.9630, 1.0), abs=1e-4)
    assert Share(0, 10).interval() == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert str(Share(1, 4)).startswith("0.250 [")
    assert Share(50, 100).as_json() == pytest.approx(
        {"right": 50, "n": 100, "low": 0.4038, "high": 0.5962}, abs=1e-4
    )


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_solves_its_equation(n, share):
    """Its ends are the p with |share − p| = 1.96 √(p (1 − p) / n), where they lie inside [0, 1]."""
    for p in wilson(share, n):
        assert 0 <= p <= 1
        assert abs(share - p) == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5, abs=1e-7)


def test_pooling_is_averaging_where_cells_are_equal():
    assert pooled([Share(1, 4), Share(3, 4)]) == Share(4, 8)


def scene(**slots) -> Scene:
    return Scene("f", slots, ())


def test_chance_by_hand():
    """Of 3 scenes two are alike: 2 of 6 ordered pairs. Facts that a caption does not state do not count."""
    red, blue = scene(colour="red"), scene(colour="blue")
    assert chance([red, red, blue]) == pytest.approx(2 / 6)
    more = scene(colour="red", size="small")
    assert chance([red, more]) == pytest.approx(1 / 2), "more shows what red states, not vice versa"
    with pytest.raises(ValueError, match="not 1"):
        chance([red])


# ---------------------------------------------------------------------------------------- FID and IS


def test_frechet_of_gaussians_by_hand():
    """One dimension: (μ₁ − μ₂)² + (σ₁ − σ₂)². Equal covariances in more: the distance of the means."""
    one = frechet_of_gaussians(*(torch.tensor(x).double() for x in ([1.0], [[4.0]])),
                               *(torch.tensor(x).double() for x in ([3.0], [[25.0]])))  # fmt: skip
    assert one == pytest.approx(2**2 + 3**2)
    A = torch.randn(5, 5).double()
    mean = torch.arange(5.0).double()
    assert frechet_of_gaussians(mean, A @ A.T, 0 * mean, A @ A.T) == pytest.approx(30, abs=1e-6)


def test_frechet_agrees_with_another_way_to_the_root():
    """tr (C₁C₂)^½ from the eigenvalues of the product itself, which is not symmetric."""
    A, B = torch.randn(2, 6, 6).double()
    C1, C2, zero = A @ A.T, B @ B.T, torch.zeros(6).double()
    cross = torch.linalg.eigvals(C1 @ C2).real.clamp_min(0).sqrt().sum()
    expected = C1.trace() + C2.trace() - 2 * cross
    assert frechet_of_gaussians(zero, C1, zero, C2) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_of_samples():
    """0 of a set with itself, symmetric, near the truth for many samples, and finite where n < F."""
    x, y = torch.randn(40, 3), torch.randn(50, 3) @ torch.diag(torch.tensor([1.0, 2, 3])) + 1
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9)
    many = [
        MultivariateNormal(torch.full((2,), m), s * torch.eye(2))
        for m, s in ((0.0, 1.0), (1.0, 4.0))
    ]
    x, y = (each.sample((4000,)) for each in many)
    assert frechet(x, y) == pytest.approx(2 * 1 + 2 * 1, rel=0.05)
    assert 0 <= frechet(torch.randn(3, 64), torch.randn(3, 64)) < 1000
    torch.testing.assert_close(covariance(x.double()), torch.cov(x.double().T))


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5, 3))])
def test_features_that_do_not_fit_are_errors(shapes):
    with pytest.raises(ValueError, match=r"features must be.*not"):
        frechet(*(torch.zeros(shape) for shape in shapes))


def test_inception_score_of_certainty_and_of_doubt():
    """Every class once and for certain: their number. All alike, or no idea at all: 1."""
    assert inception(torch.eye(7)) == pytest.approx(7)
    assert inception(torch.eye(7)[[2, 2, 2]]) == pytest.approx(1)
    assert inception(torch.full((5, 7), 1 / 7)) == pytest.approx(1)
    assert inception(torch.eye(4)[[0, 0, 0, 1]]) == pytest.approx(
        (1 / 0.75) ** 0.75 * (1 / 0.25) ** 0.25
    )


def test_what_is_left_of_a_class_is_scaled_to_a_sum_of_1():
    """Wherever the class stands; certainty of it, or what 32 bit round to it, leaves the others alike."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    expected = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(without(p, 1), expected)
    torch.testing.assert_close(without(p[:, [1, 0, 2]], 0), expected)
    torch.testing.assert_close(without(p[:, [0, 2, 1]], 2), expected)


def test_blur_is_gaussian():
    """0 changes nothing; a larger radius leaves less variance; a single dot spreads as the bell does."""
    pictures = torch.rand(2, 3, 24, 24)
    assert blur(pictures, 0) is pictures
    spread = [float(blur(pictures, r).var()) for r in (0, 1, 2, 4)]
    assert spread == sorted(spread, reverse=True)
    assert_untouched(lambda: blur(pictures, 2), pictures)
    dot = torch.zeros(1, 3, 33, 33)
    dot[:, :, 16, 16] = 1
    wide = to_uint8(blur(dot, 2.0))[0, :, :, 0].astype(float)
    place = torch.arange(33.0) - 16
    variance = (torch.from_numpy(wide).sum(0) * place**2).sum() / wide.sum()
    assert float(variance) == pytest.approx(4, rel=0.3), "8 bits of colour cut the tails"


# ------------------------------------------------------------------------------- diversity, best of N


def test_pairwise_difference_by_hand():
    """Three candidates, two positions: pairs differ at 2, 1 and 1 of 2 places; a copy differs nowhere."""
    tokens = torch.tensor([[[0, 0], [1, 1], [0, 1]]])
    assert pairwise_difference(tokens) == pytest.approx(4 / 6)
    assert pairwise_difference(torch.zeros(2, 4, 5).long()) == 0
    both = torch.cat([tokens, torch.zeros(1, 3, 2).long()])
    assert pairwise_difference(both) == pytest.approx(2 / 6)


def brute_force(scores, right, N: int) -> float:
    """All subsets of N, the first of the best-scored of each."""
    found = []
    for subset in combinations(range(len(scores)), N):
        best = max(subset, key=lambda k: (scores[k], -k))
        found.append(float(right[best]))
    return sum(found) / len(found)


POOLS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7)


@given(POOLS, st.data())
def test_best_of_n_is_the_mean_over_all_subsets(pool, data):
    """Equal scores included; N = 1 is the plain share, N = M the one best candidate."""
    scores, right = (torch.tensor(x) for x in zip(*pool, strict=True))
    N = data.draw(st.integers(1, len(pool)))
    found = expected_best(scores[None], right[None], N)
    assert float(found) == pytest.approx(brute_force(scores.tolist(), right.tolist(), N))


def with_replacement(M: int, N: int) -> torch.Tensor:
    """Planted: the chance of each rank if N were drawn with replacement."""
    k = torch.arange(M, dtype=torch.float64)
    return ((M - k) / M) ** N - ((M - k - 1) / M) ** N


def first_n(M: int, N: int) -> torch.Tensor:
    """Planted: the best of all, whatever N."""
    return torch.eye(M, dtype=torch.float64)[0]


@pytest.mark.parametrize("fault", [with_replacement, first_n])
def test_a_biased_curve_is_noticed(fault, monkeypatch):
    monkeypatch.setattr("minidalle.scores.chances_to_win", fault)
    scores, right = torch.tensor([3.0, 1, 2, 0]), torch.tensor([1, 0, 0, 0])
    found = float(expected_best(scores[None], right[None], 2))
    assert found != pytest.approx(brute_force(scores.tolist(), right.tolist(), 2))


@pytest.mark.parametrize("N", [1, 2, 31, 32])
def test_somebody_wins(N):
    """Chances sum to 1, fall with the rank, and are N / M for the best."""
    chances = chances_to_win(32, N)
    assert float(chances.sum()) == pytest.approx(1)
    assert float(chances[0]) == pytest.approx(N / 32)
    assert (chances.diff() <= 1e-12).all()


@pytest.mark.parametrize("N", [0, 5])
def test_more_than_there_are_cannot_be_drawn(N):
    with pytest.raises(ValueError, match=f"cannot draw {N} of 4"):
        chances_to_win(4, N)


def test_an_ideal_and_a_contrary_ranker():
    """Scores that know what is right find it as soon as it is there; the opposite, only if all are right."""
    right = torch.tensor([[0, 1, 0, 0]])
    assert expected_best(right, right, 4).tolist() == [1]
    assert expected_best(-right, right, 2).tolist() == [0]
    assert float(expected_best(right, right, 2)) == pytest.approx(1 / 2)
