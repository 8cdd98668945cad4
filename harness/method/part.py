"""Parts: everything frozen that a method is composed of, such as image-text models, generators, region proposers."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from harness.system.configured import Configured, as_json
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


def required_file(path: str | Path, flag: str) -> Requirement:
    """A file that is here or not.

    Args:
        path: Where it should be.
        flag: The setting that holds the path, for the message.
    """
    here = Path(path).expanduser().is_file()
    return Requirement("file", str(path), None if here else f"put the file there, or give its path with {flag}")


class Part(Configured, nn.Module):
    """A frozen part of a method. The constructor keeps settings and loads nothing; ``load`` builds it, once.

    A subclass fills in ``build``, and ``requirements`` and ``configuration`` where it reads files. What it computes
    depends on nothing but its arguments: a part is shared by all configurations in which its settings are equal.
    """

    _part_loaded: bool = False
    _part_weights: str | None = None
    _part_configuration: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "load" in cls.__dict__:
            raise TypeError(f"{cls.__name__} overrides load, which is the same for all parts: fill in build")

    @final
    def load(self) -> None:
        """Load the parts that this one is made of, then build it; a second call does nothing.

        Raises:
            ModelError: Weights are not on this machine; the message says what to fetch.
            ConfigurationError: A setting does not fit what was loaded.
        """
        if self._part_loaded:
            return
        for part in self.parts():
            part.load()
        self.build()
        self._part_loaded = True

    @final
    def mark_loaded(self) -> None:
        """Say that the part was given its networks, which ``load`` then leaves alone; ends every ``adopt``."""
        self._part_loaded = True
        self._part_weights = self._part_configuration = None

    @property
    def loaded(self) -> bool:
        """Whether ``load``, or ``adopt`` in its place, has succeeded."""
        return self._part_loaded

    def build(self) -> None:
        """Build what is frozen from local files, and assign networks as submodules."""

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """What this part itself reads; nothing is loaded and nothing fetched.

        Args:
            flag: What the command line calls this part, such as ``--method.clip``, for messages.
        """
        return ()

    @final
    def requires(self, flag: str = "--method") -> list[Requirement]:
        """What this part and the parts that it is made of read, each once; ``flag`` as in ``requirements``."""
        return unique([*self.requirements(flag), *required_by(self.arguments, flag)])

    def source(self) -> Mapping[str, str | None] | None:
        """Where its model came from, for the record: it is not in ``identity``, which has the weights' hash.

        Returns:
            ``name`` (Hub id or folder), ``revision`` (what was asked for) and ``commit`` (what that was when it was
            read; None for a folder); None for a part that reads no such model.
        """
        return None

    def parts(self) -> list["Part"]:
        """The parts among the constructor's arguments, in their order."""
        return list(parts_of(self.arguments))

    def configuration(self) -> Any:
        """What a loaded model's own files determine besides its weights, as JSON; None for a part without any."""
        return None

    def resolved(self) -> Mapping[str, Any]:
        """Arguments as they act once the part is loaded, where that differs from how they were given.

        Such as a size that was left to the model. They take the arguments' place in ``identity``.
        """
        return {}

    def weights(self) -> str | None:
        """16 hex digits of this part's own weights, without those of its parts, as first loaded; None without any."""
        if self._part_weights is not None:
            return self._part_weights or None
        own = self._own_tensors()
        found = hash_tensors(own)[:16] if own else ""
        if self._part_loaded:
            self._part_weights = found
        return found or None

    @final
    def all_weights(self) -> str | None:
        """16 hex digits of this part's weights and those of its parts; None without any."""
        hashes = [found for found in (self.weights(), *(part.all_weights() for part in self.parts())) if found]
        if len(hashes) < 2:
            return hashes[0] if hashes else None
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Everything that determines what this part computes: settings, loaded configuration, weights, dtype; JSON.

        Of a loaded part, unless it has nothing to load. Parts that it is made of are nested with their own identity.
        """
        if self._part_configuration is None or not self._part_loaded:
            self._part_configuration = self.configuration()
        given = {**self.identifying_arguments, **self.resolved()}
        found = {"class": type(self).__name__, **{name: identity_of(value) for name, value in given.items()}}
        told = {"configuration": self._part_configuration, "weights": self.weights(), "dtype": self.dtype}
        return found | {name: value for name, value in told.items() if value is not None}

    @property
    def dtype(self) -> str | None:
        """What its own weights are held in now, such as ``float32``, which a Trainer may change; None without any."""
        kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in self._own_tensors().values()}
        return " ".join(sorted(kind for kind in kinds if "float" in kind)) or None

    def _own_tensors(self) -> dict[str, Tensor]:
        inner = {id(tensor) for part in self.parts() for tensor in part.state_dict(keep_vars=True).values()}
        return {name: tensor for name, tensor in self.state_dict(keep_vars=True).items() if id(tensor) not in inner}

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a part without any."""
        return next((tensor.device for tensor in self.state_dict(keep_vars=True).values()), torch.device("cpu"))


def required_by(arguments: Mapping[str, Any], flag: str) -> list[Requirement]:
    """What the parts among some constructor's arguments read, each once.

    Args:
        arguments: By name; parts may lie in lists and dicts.
        flag: What the command line calls the object that has them.
    """
    found: list[Requirement] = []
    for name, value in arguments.items():
        if isinstance(value, Part):
            found += value.requires(f"{flag}.{name}")
        elif isinstance(value, Mapping):
            found += required_by(value, f"{flag}.{name}")
        elif isinstance(value, (list, tuple)):
            for part in parts_of(value):
                found += part.requires(f"{flag}.{name}")
    return unique(found)


def sources_of(arguments: Mapping[str, Any], place: str = "") -> dict[str, dict[str, str | None]]:
    """Where the models of the parts among some constructor's arguments came from, by their place there.

    Args:
        arguments: By name; parts may lie in lists and dicts.
        place: Before the names, such as ``extractors.``.
    """
    found: dict[str, dict[str, str | None]] = {}
    for name, value in arguments.items():
        if isinstance(value, Part):
            if told := value.source():
                found[f"{place}{name}"] = dict(told)
            found |= sources_of(value.effective_arguments, f"{place}{name}.")
        elif isinstance(value, Mapping):
            found |= sources_of(value, f"{place}{name}.")
        elif isinstance(value, (list, tuple)):
            found |= sources_of({str(number): item for number, item in enumerate(value)}, f"{place}{name}.")
    return found


def unique(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Each file, model and package once, as first mentioned."""
    found: dict[tuple[str, str], Requirement] = {}
    for need in requirements:
        found.setdefault((need.kind, need.name), need)
    return list(found.values())


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


def identity_of(value: Any) -> Any:
    """An argument as JSON; a part as its identity, or as its settings if the method never loads it."""
    if isinstance(value, Part):
        return value.identity() if value.loaded else value.settings()
    if isinstance(value, Mapping):
        return {str(key): identity_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity_of(item) for item in value]
    return as_json(value)


class SharedParts:
    """Constructs parts, equal ones once; an instantiator of jsonargparse.

    Equal means: of the same class, with equal arguments; arguments that are parts themselves are shared.
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
