"""Schedules are pure functions of the step with exact values at the start, the middle and the end."""

import pytest
from checks import assert_half_cosine, assert_monotone, assert_schedule_is_pure
from hypothesis import given
from hypothesis import strategies as st

from minidalle.schedules import cosine, linear, warmup

values = st.floats(-100, 100)
lengths = st.integers(1, 10_000)

SCHEDULES = {
    "tau": lambda step: cosine(step, 1.0, 1 / 16, 50),
    "beta": lambda step: cosine(step, 0.0, 6.6, 30),
    "warmup": lambda step: warmup(step, 20),
    "linear": lambda step: linear(step, 1.0, 0.0, 80),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_depend_on_the_step_alone(name):
    """Asked in any order and twice: the same value, so that a resumed run agrees."""
    assert_schedule_is_pure(SCHEDULES[name], 100)
    assert_monotone(SCHEDULES[name], 100)


def test_the_papers_temperatures_exactly():
    """1 at the start, 17/32 in the middle, 1/16 at 150,000 and ever after."""
    tau = [cosine(step, 1.0, 1 / 16, 150_000) for step in (0, 75_000, 150_000, 3_000_000)]
    assert tau == pytest.approx([1.0, 17 / 32, 1 / 16, 1 / 16], abs=1e-12)


def test_a_cosine_is_no_straight_line():
    """At a quarter of the way it has gone (1 − cos 45°)/2 of it, about 15 %, not 25 %."""
    assert_half_cosine(lambda step: cosine(step, 0.0, 1.0, 100), 0.0, 1.0, 100)
    assert_half_cosine(lambda step: cosine(step, 1.0, 1 / 16, 1600), 1.0, 1 / 16, 1600)


@given(values, values, lengths)
def test_cosine_starts_and_ends_where_it_should(first, last, steps):
    """First value at 0, last value at the end and after it, the mean of both half way."""
    assert cosine(0, first, last, steps) == pytest.approx(first, abs=1e-9)
    assert cosine(steps, first, last, steps) == pytest.approx(last, abs=1e-9)
    assert cosine(10 * steps, first, last, steps) == pytest.approx(last, abs=1e-9)
    assert cosine(steps, first, last, 2 * steps) == pytest.approx((first + last) / 2, abs=1e-9)


@given(values, values, lengths, st.integers(0, 20_000))
def test_cosine_and_linear_stay_between_their_ends(first, last, steps, step):
    """No schedule overshoots."""
    low, high = min(first, last) - 1e-9, max(first, last) + 1e-9
    assert low <= cosine(step, first, last, steps) <= high
    assert low <= linear(step, first, last, steps) <= high


@given(values, values, lengths)
def test_linear_exactly(first, last, steps):
    """Start, middle, end and beyond."""
    assert linear(0, first, last, steps) == pytest.approx(first)
    assert linear(steps, first, last, 2 * steps) == pytest.approx((first + last) / 2, abs=1e-9)
    assert linear(3 * steps, first, last, steps) == pytest.approx(last, abs=1e-9)


@given(lengths)
def test_warmup_exactly(steps):
    """1/steps at step 0, so that no step is lost; 1 at steps − 1 and after."""
    assert warmup(0, steps) == pytest.approx(1 / steps)
    assert warmup(steps - 1, steps) == warmup(steps, steps) == warmup(10 * steps, steps) == 1.0


@given(st.integers(0, 100))
def test_a_schedule_of_no_steps_is_over(step):
    """Zero steps: the last value at once, and no division by zero."""
    assert cosine(step, 3.0, 5.0, 0) == linear(step, 3.0, 5.0, 0) == 5.0
    assert warmup(step, 0) == 1.0
