"""What points of a study share: frozen parts of equal configuration, and what these compute of one image.

Outside of ``shared`` nothing here does anything. Inside, a function marked ``once`` computes once for equal arguments:
the same object, and the same values bit by bit in the same memory layout. What it gives back is then the same, too,
so that a point's integers do not depend on whether it was evaluated alone.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

# What is kept of one image at most, inputs and results; what does not fit is computed again.
BUDGET = 2**32
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLAIN = (str, bytes, int, float, bool, type(None))


class _Unshared(Exception):
    """Something whose equality cannot be told, or that cannot be copied exactly."""


class _Entry(NamedTuple):
    """One call.

    Attributes:
        objects: What the key tells by address; held, so that no other object gets that address.
        inputs: Copies of all tensors among the arguments.
        result: A copy of what came of it.
    """

    objects: list[Any]
    inputs: list[Tensor]
    result: Any


class Memory:
    """Results of calls, while one image is processed.

    Args:
        budget: Bytes.

    Attributes:
        hits: How many calls were answered.
        held: Bytes.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.hits = self.held = 0
        self._entries: dict[Hashable, list[_Entry]] = {}

    def call(
        self,
        compute: Callable[..., Any],
        given: tuple[Any, ...],
        arguments: tuple[Any, ...],
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """What ``compute`` gives; computed, or remembered.

        Args:
            compute: A function marked ``once``.
            given: All that it is given, by the order of its parameters, defaults among them.
            arguments: The same as it is called: by position,
            settings: and by name.
        """
        objects: list[Any] = []
        inputs: list[Tensor] = []
        try:
            key = (compute, _key(given[:1], objects, inputs, True), _key(given[1:], objects, inputs), _ambience())
        except _Unshared:
            return compute(*arguments, **settings)
        entries = self._entries.setdefault(key, [])
        for number, entry in enumerate(entries):
            if all(_same(mine, known) for mine, known in zip(inputs, entry.inputs, strict=True)):
                self.hits += 1
                # The next call is likely the one that came next the last time.
                entries[:] = entries[number + 1 :] + entries[: number + 1]
                return _copy(entry.result)
        # Copied before the call, which may write into its arguments.
        kept = self._afford(inputs)
        result = compute(*arguments, **settings)
        if kept is not None:
            copied = self._afford(result)
            if copied is None:
                self.held -= _bytes(kept)
            else:
                entries.append(_Entry(objects, kept[0], copied[0]))
        return result

    def _afford(self, value: Any) -> Any:
        """A copy in a list, or None if it cannot be made or does not fit."""
        try:
            size = _bytes(value)
            if self.held + size > self.budget:
                return None
            copied = _copy(value)
        except _Unshared:
            return None
        self.held += size
        return [copied]


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def shared(budget: int | None = None) -> Iterator[Memory]:
    """Calls inside that are marked ``once`` share their results, which are forgotten at the end.

    Args:
        budget: Bytes that may be kept; null takes ``BUDGET``.
    """
    memory = Memory(BUDGET if budget is None else budget)
    token = _memory.set(memory)
    try:
        yield memory
    finally:
        _memory.reset(token)


@contextmanager
def alone() -> Iterator[None]:
    """Calls inside share nothing, though they lie inside of ``shared``."""
    token = _memory.set(None)
    try:
        yield
    finally:
        _memory.reset(token)


def once(compute: Callable[P, R]) -> Callable[P, R]:
    """Mark a function, or a method of a part, that depends on nothing but its arguments.

    Of a method's object only the identity is compared: it must not change between calls. Arguments that are no plain
    values, tensors, modules, or lists, tuples and dicts of them make a call unshared.
    """
    form = signature(compute)

    @wraps(compute)
    def call(*arguments: P.args, **settings: P.kwargs) -> R:
        memory = _memory.get()
        if memory is None:
            return compute(*arguments, **settings)
        if len(arguments) == len(form.parameters) and not settings:
            return memory.call(compute, arguments, arguments)
        # The same call may be written in several ways.
        bound = form.bind(*arguments, **settings)
        bound.apply_defaults()
        return memory.call(compute, tuple(bound.arguments.values()), bound.args, bound.kwargs)

    return call


def _ambience() -> Hashable:
    """What else a result depends on: whether torch autocasts, and whether its tensors may be trained through."""
    casts = tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in ("cpu", "cuda")
    )
    return casts, torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def _key(value: Any, objects: list[Any], inputs: list[Tensor], own: bool = False) -> Hashable:
    """Everything about a value but its tensors' numbers, which go to ``inputs``.

    Args:
        value: Arguments.
        objects: Gets what is told by its address.
        inputs: Gets the tensors.
        own: Tell any object by its address, not modules alone.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            raise _Unshared
        inputs.append(value)
        return Tensor, value.dtype, value.device, tuple(value.shape), value.stride()
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_key(each, objects, inputs, own) for each in value)
    if isinstance(value, dict):
        return dict, tuple((name, _key(each, objects, inputs)) for name, each in value.items())
    if own or isinstance(value, nn.Module):
        objects.append(value)
        return type(value), id(value)
    raise _Unshared


def _same(left: Tensor, right: Tensor) -> bool:
    """Equal bit by bit: a NaN equals itself, and 0 is not -0."""
    bits = _BITS[left.dtype.itemsize]
    return torch.equal(left.view(bits), right.view(bits))


def _copy(value: Any) -> Any:
    """The same values in the same layout, which the last digits of a product depend on; nobody else's to change."""
    if isinstance(value, Tensor):
        if any(stride == 0 and length > 1 for stride, length in zip(value.stride(), value.shape, strict=True)):
            raise _Unshared
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple):
        copies = [_copy(each) for each in value]
        return type(value)(*copies) if hasattr(value, "_fields") else tuple(copies)
    if isinstance(value, list):
        return [_copy(each) for each in value]
    raise _Unshared


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def frozen_part(cls: C) -> C:
    """Mark a class of parts, and its subclasses, that nobody changes once they are loaded.

    Points whose configurations of such a part are equal then have one object for it.
    """
    cls.frozen_part = True  # type: ignore[attr-defined]
    return cls


class Parts:
    """Constructs parts, equal ones once; an instantiator of jsonargparse.

    A part is equal to another if class and arguments are; arguments that are parts themselves, if they are one object.
    Whatever is not marked ``frozen_part`` is constructed anew, as is a part that was given something which is not.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__(self, cls: type, *arguments: Any, **settings: Any) -> Any:
        """An object of ``cls``, perhaps one made before."""
        if not getattr(cls, "frozen_part", False):
            return cls(*arguments, **settings)
        try:
            key = (cls, self._key(arguments), self._key(settings))
        except _Unshared:
            return cls(*arguments, **settings)
        if key not in self._made:
            made = cls(*arguments, **settings)
            if hasattr(made, "load"):
                made.load = _loading_once(made.load)
            self._made[key] = made
        return self._made[key]

    def _key(self, value: Any) -> Hashable:
        if isinstance(value, (list, tuple)):
            return type(value), tuple(self._key(each) for each in value)
        if isinstance(value, dict):
            return dict, tuple((name, self._key(each)) for name, each in value.items())
        if any(value is made for made in self._made.values()):
            return type(value), id(value)
        if isinstance(value, _PLAIN) or type(value).__module__ == "pathlib":
            return type(value), value
        raise _Unshared


def _loading_once(load: Callable[[], None]) -> Callable[[], None]:
    loaded = False

    def act() -> None:
        nonlocal loaded
        if not loaded:
            load()
            loaded = True

    return act
