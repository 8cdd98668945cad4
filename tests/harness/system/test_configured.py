"""Constructor arguments are recorded and checked once, for every class and its subclasses."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness import ConfigurationError
from harness.system.configured import Configured, as_json

if TYPE_CHECKING:
    from fractions import Fraction


class Base(Configured):
    not_identity = frozenset({"batch_size"})

    def __init__(self, name: str, mode: Literal["fast", "slow"] = "fast", batch_size: int = 8) -> None:
        self.name, self.mode, self.batch_size = name, mode, batch_size


class Derived(Base):
    def __init__(self, name: str, depth: Literal[1, 2] | None = None, **settings: Any) -> None:
        super().__init__(name.upper(), **settings)
        self.depth = depth


class Holder(Configured):
    def __init__(self, parts: list[Base], path: Path) -> None:
        self.parts, self.path = parts, path


class Later(Configured):
    def __init__(self, share: "Fraction | None" = None) -> None:
        self.share = share


class Nothing(Configured):
    pass


def test_arguments_are_recorded_with_their_defaults() -> None:
    assert dict(Base("a", batch_size=2).arguments) == {"name": "a", "mode": "fast", "batch_size": 2}
    assert dict(Base("a").arguments) == {"name": "a", "mode": "fast", "batch_size": 8}
    assert dict(Nothing().arguments) == {}


def test_a_subclass_has_its_own_arguments_and_those_of_its_base() -> None:
    derived = Derived("a", mode="slow")
    assert derived.name == "A"
    # As the subclass was given it, not as it told its base.
    assert dict(derived.arguments) == {"name": "a", "depth": None, "mode": "slow", "batch_size": 8}


def test_arguments_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Base("a").arguments["name"] = "b"  # type: ignore[index]


def test_settings_are_the_class_and_all_that_changes_a_value() -> None:
    assert Base("a", batch_size=1).settings() == {"class": "Base", "name": "a", "mode": "fast"}
    assert Derived("a", 2).settings() == {"class": "Derived", "name": "a", "depth": 2, "mode": "fast"}


def test_settings_are_nested_json() -> None:
    assert Holder([Base("a"), Base("b")], Path("x/y")).settings() == {
        "class": "Holder",
        "parts": [{"class": "Base", "name": "a", "mode": "fast"}, {"class": "Base", "name": "b", "mode": "fast"}],
        "path": "x/y",
    }
    assert as_json({1: (True, None), "s": frozenset({"b", "a"})}) == {"1": [True, None], "s": ["a", "b"]}
    with pytest.raises(ConfigurationError, match="a object cannot be told apart"):
        as_json(object())


def test_a_choice_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"Base: mode must be one of fast, slow, not 'slw' \(did you mean"):
        Base("a", "slw")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Derived: depth must be one of 1, 2, null, not 3"):
        Derived("a", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Derived: mode must be one of"):
        Derived("a", mode="none")


def test_annotations_for_type_checkers_alone_are_no_error() -> None:
    assert dict(Later().arguments) == {"share": None}
