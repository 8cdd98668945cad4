"""What a sweep tries next: W&B's distributions, drawn at random or chosen by Bayesian optimisation.

W&B's own ``sweeps`` package does not serve: it asks for numpy < 2 and draws from numpy's global random state. Optuna's
Gaussian process stands in its place, behind the same file format.
"""

import importlib.util
import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from scipy.special import betaincinv

from harness.system.errors import ConfigurationError

Goal = Literal["maximize", "minimize"]

# The value at a share of the distribution's mass, by the names of W&B's schema. ``q_`` before a name rounds to steps.
QUANTILES: dict[str, Callable[[float, Mapping[str, float]], float]] = {
    "uniform": lambda u, s: s["min"] + u * (s["max"] - s["min"]),
    "log_uniform": lambda u, s: math.exp(s["min"] + u * (s["max"] - s["min"])),
    "log_uniform_values": lambda u, s: s["min"] * (s["max"] / s["min"]) ** u,
    "inv_log_uniform": lambda u, s: math.exp(-s["max"] + u * (s["max"] - s["min"])),
    "inv_log_uniform_values": lambda u, s: s["min"] * (s["max"] / s["min"]) ** u,
    "normal": lambda u, s: NormalDist(s["mu"], s["sigma"]).inv_cdf(u),
    "log_normal": lambda u, s: math.exp(NormalDist(s["mu"], s["sigma"]).inv_cdf(u)),
    "beta": lambda u, s: float(betaincinv(s["a"], s["b"], u)),
}
STEPPED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
DEFAULTS = {"normal": {"mu": 0.0, "sigma": 1.0}, "log_normal": {"mu": 0.0, "sigma": 1.0}, "beta": {"a": 1.0, "b": 1.0}}
# Keeps the unbounded distributions finite.
EDGE = 1e-4
# Listed numbers that spread over this factor or more are thought of by their ratios.
WIDE = 8
# Draws in search of a point that was not tried yet.
DRAWS = 1000


def _known() -> list[str]:
    discrete = ["constant", "categorical", "categorical_w_probabilities", "int_uniform"]
    return [*discrete, *QUANTILES, *(f"q_{name}" for name in STEPPED)]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a sweep.

    Attributes:
        name: The flag that it sets.
        choices: Its values, or None when it is continuous.
        ordered: Its values are numbers in ascending order, so that neighbours are alike.
        weights: The probability of each choice; None when all are alike.
        distribution: Of a continuous one, a key of ``QUANTILES``.
        settings: Of the distribution.
        step: Its values are multiples of this; None for any value.
    """

    name: str
    choices: Sequence[Any] | None
    ordered: bool = False
    weights: Sequence[float] | None = None
    distribution: str = "uniform"
    settings: Mapping[str, float] | None = None
    step: float | None = None

    @property
    def numeric(self) -> bool:
        """Whether all its values are numbers."""
        return self.choices is None or all(map(_is_number, self.choices))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest of its numbers; None when there is no end of them."""
        if self.choices is not None:
            return (float(min(self.choices)), float(max(self.choices))) if self.numeric else None
        return (float(self.at(0.0)), float(self.at(1.0))) if "min" in (self.settings or {}) else None

    @property
    def by_ratio(self) -> bool:
        """Whether equal ratios of its values are equal steps: a logarithmic scale shows them best."""
        bounds = self.bounds
        if bounds is None or bounds[0] <= 0:
            return bounds is None and self.distribution == "log_normal" and self.step is None
        if self.choices is None:
            return "log" in self.distribution
        return not isinstance(self.choices, range) and bounds[1] >= WIDE * bounds[0]

    def at(self, place: float | int) -> Any:
        """The value at a place: an index into the choices, or a share of the distribution's mass in [0, 1]."""
        if self.choices is not None:
            return self.choices[int(place)]
        share = min(max(place, EDGE), 1 - EDGE) if "min" not in (self.settings or {}) else place
        value = QUANTILES[self.distribution](share, self.settings or {})
        if self.step is not None:
            value = round(value / self.step) * self.step
            if isinstance(self.step, int):
                return int(value)
        # More digits would mean nothing, and stand in every table and directory.
        return float(f"{value:.6g}")

    def draw(self, source: random.Random) -> float | int:
        """A random place, as ``at`` takes it."""
        if self.choices is None:
            return source.random()
        if self.weights is None:
            return source.randrange(len(self.choices))
        return source.choices(range(len(self.choices)), self.weights)[0]

    def grid(self) -> list[Any]:
        """All its values.

        Raises:
            ConfigurationError: It has no end of them; W&B's grids take steps of a uniform distribution.
        """
        if self.choices is not None and self.weights is None:
            return list(self.choices)
        if self.step is not None and self.distribution == "uniform" and self.settings is not None:
            first, last = (round(self.settings[end] / self.step) for end in ("min", "max"))
            values = [multiple * self.step for multiple in range(first, last + 1)]
            return [value if isinstance(self.step, int) else float(f"{value:.6g}") for value in values]
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
    if kind in ("constant", "categorical", "categorical_w_probabilities"):
        return _listed(name, kind, given)
    if kind == "int_uniform":
        low, high = _bounds(name, kind, given)
        if not isinstance(low, int) or not isinstance(high, int):
            raise ConfigurationError(f"parameter '{name}': int_uniform needs whole numbers as 'min' and 'max'")
        return Parameter(name, range(low, high + 1), ordered=True)
    step = None
    if isinstance(kind, str) and kind.startswith("q_") and kind[2:] in STEPPED:
        kind, step = kind[2:], _number(name, "q", given.pop("q", 1.0))
        if step <= 0:
            raise ConfigurationError(f"parameter '{name}': 'q' must be positive, not {step}")
    if kind not in QUANTILES:
        raise ConfigurationError(f"parameter '{name}': W&B's distributions are {', '.join(_known())}, not '{kind}'")
    if kind not in DEFAULTS:
        low, high = _bounds(name, kind, given)
        if kind.endswith("_values") and low <= 0:
            raise ConfigurationError(f"parameter '{name}': {kind} needs a positive 'min', not {low}")
        return Parameter(name, None, distribution=kind, settings={"min": low, "max": high}, step=step)
    shape = {key: _number(name, key, given.pop(key, default)) for key, default in DEFAULTS[kind].items()}
    _only(name, kind, given)
    if any(shape[key] <= 0 for key in shape if key != "mu"):
        raise ConfigurationError(f"parameter '{name}': {kind} needs positive {' and '.join(shape)}")
    return Parameter(name, None, distribution=kind, settings=shape, step=step)


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
    numbers = all(map(_is_number, values))
    return Parameter(name, values, ordered=numbers and values == sorted(values), weights=weights)


def _bounds(name: str, kind: str, given: dict[str, Any]) -> tuple[float, float]:
    if not {"min", "max"} <= set(given):
        raise ConfigurationError(f"parameter '{name}': {kind} needs 'min' and 'max'")
    low, high = (_number(name, end, given.pop(end)) for end in ("min", "max"))
    _only(name, kind, given)
    if low > high:
        raise ConfigurationError(f"parameter '{name}': 'min' {low} is above 'max' {high}")
    return low, high


def _number(name: str, key: str, value: Any) -> float:
    if not _is_number(value) or not math.isfinite(value):
        raise ConfigurationError(f"parameter '{name}': '{key}' must be a number, not '{value}'")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _only(name: str, kind: str, left: Mapping[str, Any]) -> None:
    if left:
        raise ConfigurationError(f"parameter '{name}': {kind} has no setting '{next(iter(left))}'")


@dataclass(frozen=True)
class Suggestion:
    """A point to try.

    Attributes:
        flags: Setting -> value.
        places: Parameter -> where its value lies, see ``Parameter.at``.
    """

    flags: Mapping[str, Any]
    places: Mapping[str, float | int]

    @property
    def key(self) -> str:
        """Equal for equal flags."""
        return json.dumps(dict(self.flags), sort_keys=True)


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, in the order of the file."""

    parameters: tuple[Parameter, ...]

    def size(self) -> int | None:
        """The number of its points; None when there is no end of them."""
        sizes = [None if each.choices is None else len(each.choices) for each in self.parameters]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def grid(self) -> Iterator[dict[str, Any]]:
        """All points, the last parameter varying fastest.

        Raises:
            ConfigurationError: A parameter has no end of values.
        """
        names = [each.name for each in self.parameters]
        for values in itertools.product(*(each.grid() for each in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def swept(self) -> list[str]:
        """The names of the parameters that have more than one value, or all when none has."""
        found = [each.name for each in self.parameters if each.choices is None or len(each.choices) > 1]
        return found or [each.name for each in self.parameters]

    def suggestion(self, places: Mapping[str, float | int]) -> Suggestion:
        """The point at these places."""
        return Suggestion({each.name: each.at(places[each.name]) for each in self.parameters}, dict(places))


def drawn(space: Space, seed: int, earlier: Sequence[Suggestion]) -> Suggestion | None:
    """The next random point: a pure function of its arguments, the same on every machine.

    Args:
        space: To draw from.
        seed: Of the drawing.
        earlier: The points before it, none of which is drawn again: a run's result does not depend on chance.

    Returns:
        The point; None when there seems to be no other one left.
    """
    known = {each.key for each in earlier}
    if space.size() is not None and len(known) >= (space.size() or 0):
        return None
    for attempt in range(DRAWS):
        # Seeded by text, which Python promises to keep.
        places = {
            each.name: each.draw(random.Random(f"{seed}/{len(earlier)}/{attempt}/{each.name}"))
            for each in space.parameters
        }
        if (found := space.suggestion(places)).key not in known:
            return found
    return None


def first_draws(space: Space) -> int:
    """How many random points come before the first one that a model suggests."""
    return max(4, 2 * len(space.swept()))


def suggested(
    space: Space, seed: int, goal: Goal, found: Sequence[tuple[Suggestion, float | None]]
) -> Suggestion | None:
    """The next point of a Bayesian optimisation: a pure function of its arguments.

    A Gaussian process is fitted to all earlier points, and the point of the largest expected improvement (of its
    logarithm) is taken. ``int_uniform`` and ascending numbers are ordered, other lists are not.

    Args:
        space: To choose from.
        seed: Of the first, random, points and of the optimisation.
        goal: Whether larger scores are better.
        found: The earlier points in their order, with their scores; None for a point without one.

    Returns:
        The point, never an earlier one; None when there seems to be no other one left.
    """
    earlier = [suggestion for suggestion, _ in found]
    if len(found) < first_draws(space) or all(score is None for _, score in found):
        return drawn(space, seed, earlier)
    places = _optimised(space, seed, goal, found)
    suggestion = space.suggestion(places)
    if suggestion.key in {each.key for each in earlier}:
        # The model is sure of a point that was tried; that is as good a time as any to look elsewhere.
        return drawn(space, seed, earlier)
    return suggestion


def require_optimiser() -> None:
    """Make sure that ``suggested`` can work here.

    Raises:
        ConfigurationError: Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigurationError("'method: bayes' needs the package optuna: pip install optuna")


def _optimised(
    space: Space, seed: int, goal: Goal, found: Sequence[tuple[Suggestion, float | None]]
) -> dict[str, float | int]:
    import optuna

    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for each in space.parameters:
        if each.choices is None:
            distributions[each.name] = optuna.distributions.FloatDistribution(0.0, 1.0)
        elif len(each.choices) > 1:
            last = len(each.choices) - 1
            distributions[each.name] = (
                optuna.distributions.IntDistribution(0, last)
                if each.ordered
                else optuna.distributions.CategoricalDistribution(tuple(range(last + 1)))
            )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Equal runs give equal integers, so there is no noise. The seed moves on, or all restarts would be alike.
        sampler = optuna.samplers.GPSampler(
            seed=(seed * 1_000_003 + len(found)) % 2**32, n_startup_trials=0, deterministic_objective=True
        )
        study = optuna.create_study(direction=goal, sampler=sampler)
        for suggestion, score in found:
            state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
            params = {name: suggestion.places[name] for name in distributions}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=score, state=state)
            )
        chosen = study.ask(distributions).params
    return {each.name: chosen.get(each.name, 0) for each in space.parameters}
