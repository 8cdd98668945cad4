"""What a sweep tries next: the distributions of W&B's sweep files, sampled by Optuna.

W&B's own ``sweeps`` package does not serve: it needs numpy < 2 and draws from numpy's global random state. Optuna's
samplers stand in its place, behind the same file format. Optuna has no normal, log-normal or beta distribution and no
weighted choices: of these it samples the quantile, and SciPy gives the value.
"""

import importlib.util
import itertools
import json
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.system.errors import ConfigurationError

if TYPE_CHECKING:
    import optuna

Goal = Literal["maximize", "minimize"]

DISCRETE = ("constant", "categorical", "categorical_w_probabilities", "int_uniform")
# W&B's bounded distributions, and the interval that 'min' and 'max' of each mean.
BOUNDED: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "uniform": lambda low, high: (low, high),
    "log_uniform": lambda low, high: (math.exp(low), math.exp(high)),
    "log_uniform_values": lambda low, high: (low, high),
    "inv_log_uniform": lambda low, high: (math.exp(-high), math.exp(-low)),
    "inv_log_uniform_values": lambda low, high: (low, high),
}
# The others, with the defaults of their settings.
SHAPED = {"normal": {"mu": 0.0, "sigma": 1.0}, "log_normal": {"mu": 0.0, "sigma": 1.0}, "beta": {"a": 1.0, "b": 1.0}}
# ``q_`` before one of these rounds to multiples of 'q'.
STEPPED = ("uniform", "log_uniform", "log_uniform_values", *SHAPED)
KNOWN = (*DISCRETE, *BOUNDED, *SHAPED, *(f"q_{name}" for name in STEPPED))
# Keeps quantiles of unbounded distributions finite.
EDGE = 1e-4
# Listed numbers that spread over this factor or more have a logarithmic axis.
WIDE = 8
# Samples in search of a point that was not tried yet.
ATTEMPTS = 1000


@dataclass(frozen=True)
class Parameter:
    """A parameter of a sweep: a list of choices, a bounded interval, or a distribution by its quantiles.

    Attributes:
        name: The flag that it sets.
        choices: Its values, or None when it is continuous.
        weights: The probability of each choice; None when all are equally likely.
        low: The lower bound of an interval.
        high: The upper bound of an interval.
        log: Its logarithm is uniform.
        shape: A key of ``SHAPED``; None for choices and intervals.
        settings: Of the shape.
        step: Its values are rounded to multiples of this; None for any value.
    """

    name: str
    choices: Sequence[Any] | None = None
    weights: Sequence[float] | None = None
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    shape: str | None = None
    settings: Mapping[str, float] | None = None
    step: float | None = None

    @property
    def numeric(self) -> bool:
        """Whether all its values are numbers."""
        return self.choices is None or all(map(is_number, self.choices))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Its smallest and its largest number; None when it is unbounded."""
        if self.choices is not None:
            return (float(min(self.choices)), float(max(self.choices))) if self.numeric else None
        return (float(self.at(self.low)), float(self.at(self.high))) if self.shape is None else None

    @property
    def by_ratio(self) -> bool:
        """Whether equal ratios of its values are equal steps: a logarithmic scale shows them best."""
        bounds = self.bounds
        if bounds is None:
            return self.shape == "log_normal" and self.step is None
        if bounds[0] <= 0:
            return False
        if self.choices is None:
            return self.log
        return not isinstance(self.choices, range) and bounds[1] >= WIDE * bounds[0]

    def distribution(self) -> "optuna.distributions.BaseDistribution":
        """What Optuna samples: an index of the choices, the value, or a quantile; ``at`` takes it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.weights is not None or self.shape is not None:
            return FloatDistribution(0.0, 1.0)
        if self.choices is None:
            return FloatDistribution(self.low, self.high, log=self.log)
        # Between ascending numbers, neighbours are alike.
        if self.numeric and list(self.choices) == sorted(self.choices):
            return IntDistribution(0, len(self.choices) - 1)
        return CategoricalDistribution(tuple(range(len(self.choices))))

    def at(self, sampled: float | int) -> Any:
        """The value that belongs to a sample of ``distribution``."""
        if self.choices is not None:
            if self.weights is None:
                return self.choices[int(sampled)]
            cumulative = list(itertools.accumulate(self.weights))
            return self.choices[min(bisect_left(cumulative, sampled * cumulative[-1]), len(self.choices) - 1)]
        value = float(sampled) if self.shape is None else self._quantile(sampled)
        if self.step is not None:
            value = round(value / self.step) * self.step
            if isinstance(self.step, int):
                return int(value)
        # More digits would mean nothing, and stand in every table and directory.
        return float(f"{value:.6g}")

    def _quantile(self, share: float) -> float:
        from scipy import stats

        share, settings = min(max(share, EDGE), 1 - EDGE), self.settings or {}
        if self.shape == "beta":
            return float(stats.beta.ppf(share, settings["a"], settings["b"]))
        value = float(stats.norm.ppf(share, settings["mu"], settings["sigma"]))
        return math.exp(value) if self.shape == "log_normal" else value

    def grid(self) -> list[Any]:
        """All its values.

        Raises:
            ConfigurationError: They are endless; W&B's grids take steps of a uniform distribution.
        """
        if self.choices is not None and self.weights is None:
            return list(self.choices)
        if self.choices is None and self.shape is None and self.step is not None and not self.log:
            first, last = (round(end / self.step) for end in (self.low, self.high))
            return [self.at(multiple * self.step) for multiple in range(first, last + 1)]
        raise ConfigurationError(
            f"parameter '{self.name}' of a grid needs 'values', 'value', or whole or stepped numbers between bounds"
        )


def parameter(name: str, entry: Any) -> Parameter:
    """A parameter as W&B's sweep files write it; the distribution follows from the keys where it is not named.

    Raises:
        ConfigurationError: It is none of W&B's distributions, or settings are missing, unknown or contradictory.
    """
    if not isinstance(entry, dict):
        raise ConfigurationError(f"parameter '{name}' needs 'values', 'value', or 'min' and 'max'")
    if "parameters" in entry:
        raise ConfigurationError(f"parameter '{name}' is nested: name its parts with dots, such as {name}.part")
    given = dict(entry)
    kind = given.pop("distribution", None) or _implied(name, given)
    if kind not in KNOWN:
        raise ConfigurationError(f"parameter '{name}': W&B's distributions are {', '.join(KNOWN)}, not '{kind}'")
    if kind == "int_uniform":
        low, high = _bounds(name, kind, given)
        if not isinstance(low, int) or not isinstance(high, int):
            raise ConfigurationError(f"parameter '{name}': int_uniform needs whole numbers as 'min' and 'max'")
        return Parameter(name, range(low, high + 1))
    if kind in DISCRETE:
        return _listed(name, kind, given)
    step = None
    if kind.startswith("q_"):
        kind, step = kind[2:], _number(name, "q", given.pop("q", 1.0))
        if step <= 0:
            raise ConfigurationError(f"parameter '{name}': 'q' must be positive, not {step}")
    if kind in BOUNDED:
        low, high = _bounds(name, kind, given)
        if kind.endswith("_values") and low <= 0:
            raise ConfigurationError(f"parameter '{name}': {kind} needs a positive 'min', not {low}")
        low, high = BOUNDED[kind](low, high)
        return Parameter(name, low=low, high=high, log="log" in kind, step=step)
    settings = {key: _number(name, key, given.pop(key, default)) for key, default in SHAPED[kind].items()}
    _only(name, kind, given)
    if any(settings[key] <= 0 for key in settings if key != "mu"):
        raise ConfigurationError(f"parameter '{name}': {kind} needs positive {' and '.join(settings)}")
    return Parameter(name, shape=kind, settings=settings, step=step)


def _implied(name: str, given: Mapping[str, Any]) -> str:
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given and "max" in given:
        whole = all(isinstance(given[end], int) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise ConfigurationError(f"parameter '{name}' needs 'values', 'value', or 'min' and 'max'")


def _listed(name: str, kind: str, given: dict[str, Any]) -> Parameter:
    values = [given.pop("value", None)] if kind == "constant" else given.pop("values", None)
    weights = given.pop("probabilities", None) if kind == "categorical_w_probabilities" else None
    _only(name, kind, given)
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"parameter '{name}': 'values' must be a list with something in it")
    if kind == "categorical_w_probabilities":
        if not isinstance(weights, list) or len(weights) != len(values):
            raise ConfigurationError(f"parameter '{name}' needs as many 'probabilities' as 'values'")
        weights = [_number(name, "probabilities", each) for each in weights]
        if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
            raise ConfigurationError(f"parameter '{name}': 'probabilities' must be at least 0 and sum to 1")
    return Parameter(name, values, weights)


def _bounds(name: str, kind: str, given: dict[str, Any]) -> tuple[float, float]:
    if not {"min", "max"} <= set(given):
        raise ConfigurationError(f"parameter '{name}': {kind} needs 'min' and 'max'")
    low, high = (_number(name, end, given.pop(end)) for end in ("min", "max"))
    _only(name, kind, given)
    if low > high:
        raise ConfigurationError(f"parameter '{name}': 'min' {low} is above 'max' {high}")
    return low, high


def _number(name: str, key: str, value: Any) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise ConfigurationError(f"parameter '{name}': '{key}' must be a number, not '{value}'")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _only(name: str, kind: str, left: Mapping[str, Any]) -> None:
    if left:
        raise ConfigurationError(f"parameter '{name}': {kind} has no setting '{next(iter(left))}'")


@dataclass(frozen=True)
class Suggestion:
    """A point to try.

    Attributes:
        flags: Setting -> value.
        sampled: Parameter -> what Optuna sampled, see ``Parameter.at``.
    """

    flags: Mapping[str, Any]
    sampled: Mapping[str, float | int]

    @property
    def key(self) -> str:
        """Equal for equal flags."""
        return json.dumps(dict(self.flags), sort_keys=True)


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, in the order of the file."""

    parameters: tuple[Parameter, ...] = ()

    def size(self) -> int | None:
        """The number of its points; None when they are endless."""
        sizes = [None if each.choices is None else len(each.choices) for each in self.parameters]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def grid(self) -> Iterator[dict[str, Any]]:
        """All points, the last parameter varying fastest.

        Raises:
            ConfigurationError: The values of a parameter are endless.
        """
        names = [each.name for each in self.parameters]
        for values in itertools.product(*(each.grid() for each in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def swept(self) -> list[str]:
        """The names of the parameters that have more than one value, or all when none has."""
        found = [each.name for each in self.parameters if each.choices is None or len(each.choices) > 1]
        return found or [each.name for each in self.parameters]

    def suggestion(self, sampled: Mapping[str, float | int]) -> Suggestion:
        """The point that belongs to samples of all parameters' distributions."""
        return Suggestion({each.name: each.at(sampled[each.name]) for each in self.parameters}, dict(sampled))

    def distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        """What Optuna samples, by parameter."""
        return {each.name: each.distribution() for each in self.parameters}


def random_points(space: Space, seed: int, tried: Sequence[Suggestion] = ()) -> Iterator[Suggestion]:
    """Random points without repetition, since a run's result does not depend on chance.

    Args:
        space: To sample from.
        seed: Equal seeds give equal points.
        tried: Points that do not come again.

    Yields:
        Points, until ``ATTEMPTS`` samples in a row bring no new one.
    """
    import optuna

    keys, distributions, failures = {each.key for each in tried}, space.distributions(), 0
    study = _study(optuna.samplers.RandomSampler(seed))
    while failures < ATTEMPTS and len(keys) < (space.size() or math.inf):
        suggestion = space.suggestion(study.ask(distributions).params)
        if suggestion.key in keys:
            failures += 1
            continue
        keys.add(suggestion.key)
        failures = 0
        yield suggestion


def num_random(space: Space) -> int:
    """How many random points come before the first one that a model suggests."""
    return max(4, 2 * len(space.swept()))


def suggest(space: Space, seed: int, goal: Goal, tried: Sequence[tuple[Suggestion, float | None]]) -> Suggestion | None:
    """The next point of a Bayesian optimisation: a pure function of its arguments.

    Optuna's ``GPSampler`` fits a Gaussian process to all earlier points and takes the point of the largest expected
    improvement (of its logarithm). Ascending numbers are ordered, other lists are not.

    Args:
        space: To choose from.
        seed: Of the first, random, points and of the optimisation.
        goal: Whether larger scores are better.
        tried: The earlier points in their order, with their scores; None for a point without one.

    Returns:
        The point, never an earlier one; None when no other one is left.
    """
    earlier = [suggestion for suggestion, _ in tried]
    if len(tried) >= num_random(space) and any(score is not None for _, score in tried):
        suggestion = space.suggestion(_improving(space, seed, goal, tried))
        # Where the model is sure of a point that was tried, the next one is random.
        if suggestion.key not in {each.key for each in earlier}:
            return suggestion
    return next(random_points(space, seed, earlier), None)


def require_optuna() -> None:
    """Make sure that points can be sampled here.

    Raises:
        ConfigurationError: Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigurationError("random and Bayesian sweeps need the package optuna: pip install optuna")


def _improving(
    space: Space, seed: int, goal: Goal, tried: Sequence[tuple[Suggestion, float | None]]
) -> Mapping[str, float | int]:
    import optuna

    distributions = space.distributions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Equal runs give equal integers, so there is no noise. Each point has its own seed, since with one for all of
        # them the optimiser would restart at the same places.
        sampler = optuna.samplers.GPSampler(
            seed=(seed * 1_000_003 + len(tried)) % 2**32, n_startup_trials=0, deterministic_objective=True
        )
        study = _study(sampler, goal)
        for suggestion, score in tried:
            state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(suggestion.sampled), distributions=distributions, value=score, state=state
                )
            )
        return study.ask(distributions).params


def _study(sampler: "optuna.samplers.BaseSampler", goal: Goal = "maximize") -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction=goal, sampler=sampler)
