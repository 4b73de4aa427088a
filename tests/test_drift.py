"""The statistics of drift: beside their definitions, and their error rates in small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.drift import coverage
from ragops.drift.two_sample import STATISTICS, combined, two_sample
from ragops.drift.watch import Watch, alarm_at, payoff

DIM = 8


def vectors(seed: int, n: int, shift: float = 0.0, sessions: int | None = None) -> np.ndarray:
    """With `sessions`, each has a place of its own that its rows lie around."""
    chance = np.random.default_rng(seed)
    found = chance.standard_normal((n, DIM)) + shift
    if sessions is not None:
        found = 0.3 * found + np.repeat(chance.standard_normal((sessions, DIM)), n // sessions, axis=0)
    return found.astype(np.float32)


# ---------------------------------------------------------------- two samples
def test_energy_distance_is_that_of_the_definition() -> None:
    x, y = vectors(1, 40), vectors(2, 30, shift=0.4)

    def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a[:, None] - b[None], axis=2).mean())

    between = mean_distance(x, y)
    energy = 2 * between - mean_distance(x, x) - mean_distance(y, y)
    found = two_sample(x, y, permutations=49)
    assert found.effect == pytest.approx(energy / (2 * between), rel=1e-3)
    assert found == two_sample(x, y, permutations=49)
    assert found.p != two_sample(x, y, permutations=49, seed=1).p or found.p == 1 / 50
    assert set(found.each) == set(STATISTICS)
    assert found.points == found.sessions == (40, 30)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 1e3]), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_scale_and_place_do_not_matter(seed: int, scale: float, place: float) -> None:
    x, y = vectors(seed, 30), vectors(seed + 1, 30, shift=0.3)
    plain = two_sample(x, y, permutations=99)
    moved = two_sample(x * scale + place * scale, y * scale + place * scale, permutations=99)
    assert moved.p == pytest.approx(plain.p, abs=0.03)
    assert moved.effect == pytest.approx(plain.effect, abs=0.01)
    assert 0 < plain.p <= 1


def alarms(make: Any, repetitions: int, alpha: float = 0.05) -> float:
    return float(np.mean([make(seed).p <= alpha for seed in range(repetitions)]))


def test_false_alarms() -> None:
    """300 windows without drift: more than 26 alarms at 0.05 have a chance of one in a thousand."""
    rate = alarms(lambda seed: two_sample(vectors(seed, 40), vectors(9_000 + seed, 40), permutations=99), 300)
    assert rate <= 26 / 300


def test_sessions_are_permuted_not_rows() -> None:
    def windows(seed: int, *, known: bool) -> Any:
        x, y = vectors(seed, 150, sessions=30), vectors(9_000 + seed, 150, sessions=30)
        names = [f"s{row // 5}" for row in range(150)] if known else None
        return two_sample(x, y, names, names, permutations=99)

    assert alarms(lambda seed: windows(seed, known=True), 100) <= 0.13
    assert alarms(lambda seed: windows(seed, known=False), 40) >= 0.5  # what happens without


@pytest.mark.parametrize("kind", ["mean", "spread", "share"])
def test_drift_is_found(kind: str) -> None:
    def windows(seed: int) -> Any:
        x, y = vectors(seed, 200), vectors(9_000 + seed, 200)
        if kind == "mean":
            y += 0.5
        elif kind == "spread":
            y *= 1.5
        else:
            y[:60] = 0.5 * y[:60] + 1.5
        return two_sample(x, y, permutations=99)

    assert alarms(windows, 20) >= 0.9


def test_what_cannot_be_said() -> None:
    x = vectors(1, 30)
    assert two_sample(x, vectors(2, 10)).why == "few sessions"
    assert two_sample(x, x[:1]).why == "few points"
    assert two_sample(x, x[:0]).why == "few points"
    names = [f"s{row % 4}" for row in range(30)]
    assert two_sample(x, vectors(2, 30), names, names).why == "few sessions"
    constant = np.ones((30, DIM), np.float32)
    assert two_sample(constant, constant).why == "constant"
    for found in (two_sample(x, vectors(2, 10)), two_sample(constant, constant)):
        assert (found.p, found.effect, found.sufficient) == (1.0, 0.0, False)
    assert two_sample(constant, x, permutations=99).p <= 0.02  # one of them constant is a drift
    broken = x.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        two_sample(x, broken)
    with pytest.raises(ValueError, match="windows are"):
        two_sample(x, x[:, :4])
    with pytest.raises(ValueError, match="sessions"):
        two_sample(x, x, ["a"], None)


def test_large_windows_are_sampled_by_whole_sessions() -> None:
    x, y = vectors(1, 600), vectors(2, 500)
    names = [f"s{row // 4}" for row in range(600)]
    found = two_sample(x, y, names, names[:500], permutations=49, cap=200)
    assert found.points == (200, 200)
    assert found.sessions == (50, 50)


@given(st.integers(1, 4), st.integers(2, 40), st.integers(0, 1000), st.booleans())
def test_the_combined_p_is_a_rank(statistics: int, columns: int, seed: int, ties: bool) -> None:
    chance = np.random.default_rng(seed)
    values = chance.integers(0, 3, (statistics, columns)) if ties else chance.standard_normal((statistics, columns))
    p, each = combined(values.astype(float))
    assert 1 / columns <= p <= 1
    assert len(each) == statistics
    assert min(each) <= p <= min(1.0, statistics * min(each)) + 1e-9 or ties
    for row, share in zip(values, each, strict=True):
        assert share == pytest.approx((row >= row[0]).mean())
    # any column might have been the observed one: their p-values together are no smaller than uniform ones
    all_p = [combined(np.roll(values.astype(float), -column, axis=1))[0] for column in range(columns)]
    for level in (0.1, 0.3, 0.5, 1.0):
        assert np.mean([value <= level for value in all_p]) <= level + 1e-9


# ---------------------------------------------------------------- watching
def test_a_bet_on_chance_does_not_gain() -> None:
    assert np.mean([payoff((i + 0.5) / 1_000_000) for i in range(1_000_000)]) <= 1.0
    assert np.mean([payoff(i / 1000) for i in range(1, 1001)]) <= 1.0  # as permutations give them


def test_watching_keeps_its_promise_and_sees_drift() -> None:
    chance = np.random.default_rng(3)
    quiet = [alarm_at(list(chance.integers(1, 1001, 90) / 1000), 0.05) for _ in range(1500)]
    assert np.mean([alarm is not None for alarm in quiet]) <= 0.05
    delays = []
    for _ in range(200):
        before, after = chance.integers(1, 1001, 60) / 1000, np.maximum(chance.beta(0.15, 1, 30), 0.001)
        alarm = alarm_at([*before, *after], 0.05)
        assert alarm is not None
        delays.append(alarm - 60)
    assert np.median(delays) <= 6


def test_a_wager() -> None:
    watch = Watch()
    assert (watch.capital, watch.alarms(0.05)) == (1.0, False)
    for _ in range(6):
        watch = watch.after(0.001)
    assert watch.alarms(0.05)
    for _ in range(200):
        watch = watch.after(0.9)
    assert watch.alarms(0.05), "an alarm stands until it is dealt with"
    assert watch.restarted() == Watch(looks=206)
    for p in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p is"):
            watch.after(p)


# ---------------------------------------------------------------- coverage
@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=60), st.floats(0, 2, width=32))
def test_a_conformal_p(answered: list[float], asked: float) -> None:
    [p] = coverage.p_values(np.array(answered, np.float32), np.array([asked], np.float32))
    assert p == pytest.approx((1 + sum(each >= asked for each in answered)) / (1 + len(answered)))


def test_marks_among_answered_queries_are_as_rare_as_told() -> None:
    chance = np.random.default_rng(0)
    marked = [(coverage.p_values(chance.gamma(2, 1, 200), chance.gamma(2, 1, 20)) <= 0.05).mean() for _ in range(300)]
    assert np.mean(marked) <= 0.055
    for wrong in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match=r"NaN|no answered"):
            coverage.p_values(np.array(wrong, np.float32), np.ones(1, np.float32))


def test_groups_of_questions() -> None:
    chance = np.random.default_rng(0)
    places = np.eye(DIM)[:3]
    rows = [places[n % 3] * 3 + chance.standard_normal(DIM) * 0.3 for n in range(12)]
    rows += [np.eye(DIM)[5] * 3]
    unit = np.array([row / np.linalg.norm(row) for row in rows], np.float32)
    found = coverage.groups(unit)
    assert [len(group.rows) for group in found] == [4, 4, 4, 1]
    assert {frozenset(n % 3 for n in group.rows) for group in found[:3]} == {
        frozenset([0]),
        frozenset([1]),
        frozenset([2]),
    }
    assert all(group.middle in group.rows for group in found)
    assert coverage.groups(unit[:1]) == [coverage.Group((0,), 0)]
    assert coverage.groups(unit[:0]) == []
