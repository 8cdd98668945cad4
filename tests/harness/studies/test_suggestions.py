"""Suggestions: W&B's distributions, random points and Bayesian ones, all pure functions of file, seed and outcomes."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from harness import ConfigurationError
from harness.studies.suggestions import Parameter, Space, Suggestion, num_random, parameter, random_points, suggest

SPACE = Space(
    (
        parameter("gamma", {"min": 0.0, "max": 1.0}),
        parameter("k", {"values": [1, 2, 5, 10, 20]}),
        parameter("refiner", {"values": ["null", "PAMR"]}),
        parameter("fixed", {"value": 3}),
    )
)


def score(suggestion: Suggestion) -> float:
    """A smooth score with one best point: gamma 0.3, k 10, PAMR."""
    flags = suggestion.flags
    return 60 - 40 * (flags["gamma"] - 0.3) ** 2 - abs(flags["k"] - 10) + 2 * (flags["refiner"] == "PAMR")


def search(count: int, seed: int = 0) -> list[tuple[Suggestion, float | None]]:
    found: list[tuple[Suggestion, float | None]] = []
    for _ in range(count):
        suggestion = suggest(SPACE, seed, "maximize", found)
        assert suggestion is not None
        found.append((suggestion, score(suggestion)))
    return found


def sample(each: Parameter, count: int = 10000) -> list[Any]:
    study, distributions = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), {"x": each.distribution()}
    return [each.at(study.ask(distributions).params["x"]) for _ in range(count)]


@pytest.mark.parametrize(
    ("entry", "reference"),
    [
        ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
        ({"distribution": "uniform", "min": 1, "max": 5}, stats.uniform(1, 4)),
        ({"distribution": "log_uniform", "min": -2, "max": 1}, stats.loguniform(np.exp(-2), np.exp(1))),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 10}, stats.loguniform(0.01, 10)),
        # 1 / x is log-uniform between exp(min) and exp(max).
        ({"distribution": "inv_log_uniform", "min": 1, "max": 3}, stats.loguniform(np.exp(-3), np.exp(-1))),
        ({"distribution": "inv_log_uniform_values", "min": 0.1, "max": 4}, stats.loguniform(0.1, 4)),
        ({"distribution": "normal", "mu": 2.0, "sigma": 3.0}, stats.norm(2, 3)),
        ({"distribution": "log_normal", "mu": 0.5, "sigma": 0.2}, stats.lognorm(0.2, scale=np.exp(0.5))),
        ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
    ],
)
def test_continuous_distributions_are_w_and_bs(entry: dict[str, Any], reference: Any) -> None:
    assert stats.kstest(sample(parameter("x", entry)), reference.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("entry", "shares"),
    [
        ({"min": 3, "max": 6}, {3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}),
        ({"values": ["a", "b"], "probabilities": [0.9, 0.1]}, {"a": 0.9, "b": 0.1}),
        ({"values": [True, [1, 2]]}, {"True": 0.5, "[1, 2]": 0.5}),
        # Rounding gives the ends half a step's share.
        ({"distribution": "q_uniform", "min": 0, "max": 4, "q": 2}, {0: 0.25, 2: 0.5, 4: 0.25}),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.2, "q": 0.1}, {0.0: 0.25, 0.1: 0.5, 0.2: 0.25}),
    ],
)
def test_discrete_distributions_have_their_shares(entry: dict[str, Any], shares: dict[Any, float]) -> None:
    counts = Counter(str(value) for value in sample(parameter("x", entry)))
    assert set(counts) == {str(value) for value in shares}
    for value, share in shares.items():
        assert counts[str(value)] / 10000 == pytest.approx(share, abs=0.02)


def test_whole_steps_stay_whole() -> None:
    values = sample(parameter("x", {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 5}), 200)
    assert all(isinstance(value, int) and value % 5 == 0 for value in values)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (3, "'values'"),
        ({"min": 1}, "'values'"),
        ({"values": []}, "list"),
        ({"min": 3, "max": 1}, "above"),
        ({"min": "a", "max": 1}, "number"),
        ({"min": 1, "max": 2.0, "q": 1}, "'q'"),
        ({"distribution": "gaussian", "mu": 1}, "log_normal"),
        ({"distribution": "normal", "sigma": 0}, "positive"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "positive"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "whole"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "positive"),
        ({"values": [1, 2], "probabilities": [1]}, "as many"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "sum to 1"),
        ({"parameters": {"a": {"value": 1}}}, "nested"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_said(entry: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        parameter("method.x", entry)
    assert "method.x" in str(raised.value)


def test_a_grid_takes_whole_and_stepped_numbers() -> None:
    entries = {"a": {"min": 1, "max": 2}, "b": {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.15}}
    points = list(Space(tuple(parameter(name, entry) for name, entry in entries.items())).grid())
    assert points == [{"a": a, "b": b} for a in (1, 2) for b in (0.0, 0.15, 0.3)]
    with pytest.raises(ConfigurationError, match="'c'"):
        list(Space((parameter("c", {"min": 0.0, "max": 1.0}),)).grid())


def test_random_points_are_a_function_of_the_seed_and_never_repeat() -> None:
    space = Space((parameter("a", {"min": 1, "max": 4}), parameter("b", {"values": ["x", "y"]})))
    found = list(random_points(space, 7))
    assert list(random_points(space, 7)) == found
    assert len({each.key for each in found}) == len(found) == space.size() == 8
    assert next(random_points(space, 7, found[:1])) == found[1]
    assert next(random_points(SPACE, 1)) != next(random_points(SPACE, 2))


def test_random_points_are_these_on_every_machine() -> None:
    # A sweep that is resumed elsewhere, or after an upgrade, must find its points again. NumPy keeps the stream of
    # RandomState(0), whose first number is 0.5488135039.
    values = [tuple(each.flags.values()) for each in islice(random_points(SPACE, 0), 3)]
    assert values[0][0] == float(f"{np.random.RandomState(0).uniform():.6g}") == 0.548814
    assert values == [(0.548814, 10, "null", 3), (0.423655, 10, "PAMR", 3), (0.963663, 2, "null", 3)]


def test_bayesian_points_are_a_function_of_what_was_found() -> None:
    found = search(num_random(SPACE) + 1)
    assert suggest(SPACE, 0, "maximize", found) == suggest(SPACE, 0, "maximize", found)
    lower = [(suggestion, -value) for suggestion, value in found if value is not None]
    assert suggest(SPACE, 0, "maximize", lower) != suggest(SPACE, 0, "maximize", found)
    # The first points are the random ones.
    earlier = [suggestion for suggestion, _ in found]
    assert earlier[0] == next(random_points(SPACE, 0))
    assert earlier[-1] != next(random_points(SPACE, 0, earlier[:-1]))


@pytest.mark.parametrize("seed", [0, 1])
def test_bayesian_points_come_closer_to_the_best_than_random_ones(seed: int) -> None:
    count = num_random(SPACE) + 8
    bayesian = search(count, seed)
    assert len({suggestion.key for suggestion, _ in bayesian}) == count
    best = max(value for _, value in bayesian if value is not None)
    assert best > max(score(each) for each in islice(random_points(SPACE, seed), count))
    assert best > 61


def test_the_goal_turns_the_search_around() -> None:
    found = search(num_random(SPACE))
    negated = [(suggestion, -value) for suggestion, value in found if value is not None]
    assert suggest(SPACE, 0, "minimize", negated) == suggest(SPACE, 0, "maximize", found)


def test_points_without_a_score_do_not_stop_a_search() -> None:
    found = search(num_random(SPACE))
    unscored = [(suggestion, None if number == 2 else value) for number, (suggestion, value) in enumerate(found)]
    assert suggest(SPACE, 0, "maximize", unscored) is not None
    assert suggest(SPACE, 0, "maximize", [(suggestion, None) for suggestion, _ in found]) is not None
