"""Objects configured by their constructor arguments, which are checked and recorded when they are constructed."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from harness.system.errors import ConfigurationError, did_you_mean


class Configured:
    """A base class that records what its constructor was given.

    Attributes:
        not_identity: Constructor arguments that change no value: where files lie, and how much is computed at once.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Every constructor argument by name, defaults among them, as it was given.

        An argument whose attribute was changed after the constructor is what it was changed to.
        """
        given = self.__dict__.get("_arguments", {})
        return types.MappingProxyType({**given, **self._changed(given)})

    @property
    def effective_arguments(self) -> Mapping[str, Any]:
        """``arguments``, with the object that the constructor made where it was given None, such as a default part."""
        arguments = self.arguments
        made = _attributes(self, {name: value for name, value in arguments.items() if value is None})
        return {**arguments, **{name: value for name, value in made.items() if isinstance(value, Configured)}}

    def _changed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments whose attributes are not what they were when the constructor returned."""
        before = self.__dict__.get("_constructed")
        if before is None:
            return {}
        now = _attributes(self, given)
        return {name: value for name, value in now.items() if name in before and _state(value) != before[name]}

    @property
    def identifying_arguments(self) -> dict[str, Any]:
        """``effective_arguments`` that can change a value: all but ``not_identity``."""
        return {name: value for name, value in self.effective_arguments.items() if name not in self.not_identity}

    def settings(self) -> dict[str, Any]:
        """The class and every argument that can change a value, as JSON; parts and their settings nested."""
        given = {name: as_json(value) for name, value in self.identifying_arguments.items()}
        return {"class": type(self).__name__, **given}


def _attributes(owner: Configured, names: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are called like constructor arguments, without networks and tensors that were loaded."""
    held = {**owner.__dict__, **owner.__dict__.get("_modules", {})}
    found = {name: held[name] for name in names if name in held}
    found = {name: dict(value) if isinstance(value, nn.ModuleDict) else value for name, value in found.items()}
    found = {name: list(value) if isinstance(value, nn.ModuleList) else value for name, value in found.items()}
    loaded = (nn.Module, Tensor)
    return {n: v for n, v in found.items() if isinstance(v, Configured) or not isinstance(v, loaded)}


def _state(value: Any) -> Any:
    """What is equal as long as a setting is unchanged; configured objects answer for their own settings."""
    if isinstance(value, Mapping):
        return {key: _state(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_state(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None), PurePath)):
        return type(value).__name__, value
    if isinstance(value, (set, frozenset)):
        return set(value)
    return id(value)


def as_json(value: Any) -> Any:
    """An argument as JSON values; a configured object as its settings.

    Raises:
        ConfigurationError: The value is none that a configuration can hold.
    """
    if isinstance(value, Configured):
        return value.settings()
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(as_json(item) for item in value)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, PurePath):
        return str(value)
    raise ConfigurationError(
        f"a {type(value).__name__} cannot be told apart from others by its settings: "
        "derive it from harness.Part, or give numbers, texts, lists and dicts"
    )


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that first checks and records its arguments.

    Where a subclass has an argument of the same name, that one's value counts: it was recorded first.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Configured, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name)
        _check_choices(type(self).__name__, init, arguments)
        outermost = "_arguments" not in self.__dict__
        self.__dict__["_arguments"] = {**arguments, **self.__dict__.get("_arguments", {})}
        init(self, *args, **kwargs)
        if outermost:
            given = self.__dict__["_arguments"]
            self.__dict__["_constructed"] = {name: _state(value) for name, value in _attributes(self, given).items()}

    return wrapper


@functools.cache
def _choices(init: Callable[..., None]) -> dict[str, tuple[Any, ...]]:
    """The allowed values of every constructor argument that is annotated with a ``Literal``."""
    found: dict[str, tuple[Any, ...]] = {}
    try:
        hints = get_type_hints(init)
    except NameError:
        # Annotations that are imported for type checkers alone: the command line checks what it can.
        return found
    for name, hint in hints.items():
        options = _literals(hint)
        if options is not None:
            found[name] = options
    return found


def _literals(hint: Any) -> tuple[Any, ...] | None:
    """All values of ``Literal[...]`` or ``Literal[...] | None``; None for any other annotation."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [(None,) if part is type(None) else _literals(part) for part in get_args(hint)]
        return None if any(part is None for part in parts) else tuple(value for part in parts for value in part or ())
    return None


def _check_choices(owner: str, init: Callable[..., None], arguments: Mapping[str, Any]) -> None:
    for name, options in _choices(init).items():
        value = arguments.get(name)
        if value not in options:
            listed = ", ".join("null" if option is None else str(option) for option in options)
            hint = did_you_mean(str(value), map(str, options))
            raise ConfigurationError(f"{owner}: {name} must be one of {listed}, not {value!r}{hint}")
