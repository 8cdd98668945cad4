"""Parts: everything frozen that a method is composed of, such as image-text models, generators, region proposers."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, final

import torch
from torch import nn

from harness.method.configured import Configured, as_json
from harness.system.provenance import hash_tensors


class Requirement(NamedTuple):
    """Something that a part reads from this machine.

    Attributes:
        kind: A ``model`` (a folder, or an id of the Hub), a ``file``, or a Python ``package``.
        name: Its path, id or name.
        missing: None if it is here, else what to do, the second half of a sentence.
    """

    kind: Literal["model", "file", "package"]
    name: str
    missing: str | None


class Part(Configured, nn.Module):
    """A frozen part of a method. The constructor keeps settings and loads nothing; ``load`` builds it, once.

    A subclass fills in ``build``, and ``requirements`` and ``configuration`` where it reads files. What it computes
    depends on nothing but its arguments: a part is shared by all configurations in which its settings are equal.
    """

    _loaded: bool = False
    _weights: str | None = None

    @final
    def load(self) -> None:
        """Load the parts that this one is made of, then build it; a second call does nothing.

        Raises:
            ModelError: Weights are not on this machine; the message says what to fetch.
            ConfigurationError: A setting does not fit what was loaded.
        """
        if self._loaded:
            return
        for part in self.parts():
            part.load()
        self.build()
        self._loaded = True

    def build(self) -> None:
        """Build what is frozen from local files, and assign networks as submodules."""

    def requirements(self) -> Iterable[Requirement]:
        """What this part itself reads; nothing is loaded and nothing fetched."""
        return ()

    def requires(self) -> list[Requirement]:
        """What this part and the parts that it is made of read, each once."""
        every = [*self.requirements(), *(need for part in self.parts() for need in part.requires())]
        return list(dict.fromkeys(every))

    def parts(self) -> list["Part"]:
        """The parts among the constructor's arguments, in their order."""
        return list(parts_of(self.arguments))

    def configuration(self) -> Any:
        """What a loaded model's own files determine besides its weights, as JSON; None for a part without any."""
        return None

    def weights(self) -> str | None:
        """16 hex digits of this part's own weights, without those of its parts, as first loaded; None without any."""
        if self._weights is None:
            inner = {id(tensor) for part in self.parts() for tensor in part.state_dict(keep_vars=True).values()}
            own = {name: tensor for name, tensor in self.state_dict(keep_vars=True).items() if id(tensor) not in inner}
            self._weights = hash_tensors(own)[:16] if own else ""
        return self._weights or None

    def identity(self) -> dict[str, Any]:
        """Everything that determines what this part computes: settings, loaded configuration, weights, dtype; JSON.

        The part is loaded. Parts that it is made of are nested with their own identity.
        """
        given = {name: _identity_of(value) for name, value in self.arguments.items() if name not in self.not_identity}
        found = {
            "class": type(self).__name__,
            **given,
            "configuration": self.configuration(),
            "weights": self.weights(),
        }
        return {key: value for key, value in found.items() if key in given or value is not None}

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a part without any."""
        return next((tensor.device for tensor in self.state_dict(keep_vars=True).values()), torch.device("cpu"))


def parts_of(value: Any) -> Iterator[Part]:
    """The parts in an argument, or in lists and dicts of arguments."""
    if isinstance(value, Part):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from parts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from parts_of(item)


def _identity_of(value: Any) -> Any:
    if isinstance(value, Part):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(key): _identity_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity_of(item) for item in value]
    return as_json(value)


class SharedParts:
    """Constructs parts, equal ones once; an instantiator of jsonargparse.

    Equal means: of the same class, with equal arguments; arguments that are parts themselves are one object.
    """

    def __init__(self) -> None:
        self._parts: dict[Hashable, Part] = {}

    def __call__(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        """An object of ``cls``, perhaps one constructed before; what is no part is always constructed anew."""
        if not issubclass(cls, Part):
            return cls(*args, **kwargs)
        try:
            key = (cls, self._key(args), self._key(kwargs))
        except TypeError:
            return cls(*args, **kwargs)
        if key not in self._parts:
            self._parts[key] = cls(*args, **kwargs)
        return self._parts[key]

    def _key(self, value: Any) -> Hashable:
        if isinstance(value, (list, tuple)):
            return type(value), tuple(map(self._key, value))
        if isinstance(value, Mapping):
            return dict, tuple((name, self._key(item)) for name, item in value.items())
        if any(value is part for part in self._parts.values()):
            return type(value), id(value)
        if isinstance(value, (str, bytes, int, float, bool, type(None))) or type(value).__module__ == "pathlib":
            return type(value), value
        raise TypeError(type(value).__name__)
