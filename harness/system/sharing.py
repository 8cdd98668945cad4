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

# What is kept of one image at most, inputs and results; what does not fit is computed again.
BUDGET = 2**32
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLAIN = (str, bytes, int, float, bool, type(None))


class _Unshared(Exception):
    """Something whose equality cannot be told."""


class _Known(NamedTuple):
    """A tensor as it was: itself, and how often it had been written into."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Known":
        return cls(tensor, _version(tensor))

    @property
    def unchanged(self) -> bool:
        return _version(self.tensor) == self.version

    def equals(self, other: Tensor) -> bool:
        """Bit by bit, of a tensor of the same type, shape and layout: a NaN equals itself, and 0 is not -0."""
        if other.data_ptr() == self.tensor.data_ptr():
            return True
        bits = _BITS[other.dtype.itemsize]
        return torch.equal(other.view(bits), self.tensor.view(bits))


class _Entry(NamedTuple):
    """One call.

    Attributes:
        objects: What the key tells by address; held, so that no other object gets that address.
        inputs: All tensors among the arguments.
        result: What came of it.
        made: All tensors in it.
    """

    objects: list[Any]
    inputs: list[_Known]
    result: Any
    made: list[_Known]

    def answers(self, inputs: list[Tensor]) -> bool:
        """Whether these are the inputs, and nobody has written into them or the result since."""
        return all(known.unchanged for known in (*self.inputs, *self.made)) and all(
            known.equals(mine) for known, mine in zip(self.inputs, inputs, strict=True)
        )


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
            if entry.answers(inputs):
                self.hits += 1
                # The next call is likely the one that came next the last time.
                entries[:] = entries[number + 1 :] + entries[: number + 1]
                return _parted(entry.result, [])
        # Before the call, which may write into its arguments.
        known = [_Known.of(tensor) for tensor in inputs]
        result = compute(*arguments, **settings)
        self._keep(entries, objects, known, result)
        return result

    def _keep(self, entries: list[_Entry], objects: list[Any], inputs: list[_Known], result: Any) -> None:
        made: list[Tensor] = []
        try:
            kept = _parted(result, made)
        except _Unshared:
            return
        size = sum(tensor.nbytes for tensor in (*(known.tensor for known in inputs), *made))
        if self.held + size <= self.budget:
            self.held += size
            entries.append(_Entry(objects, inputs, kept, [_Known.of(tensor) for tensor in made]))


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def shared(budget: int | None = None) -> Iterator[Memory]:
    """Calls inside that are marked ``once`` share their results, which are forgotten at the end.

    A result is one tensor for all callers. Who writes into it, as into an argument, makes the next call compute it
    anew. That a tensor was written into is not known in inference mode, which is off inside; gradients are, too.

    Args:
        budget: Bytes that may be kept; null takes ``BUDGET``.
    """
    memory = Memory(BUDGET if budget is None else budget)
    token = _memory.set(memory)
    try:
        with torch.inference_mode(False), torch.no_grad():
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
        if memory is None or torch.is_inference_mode_enabled():
            return compute(*arguments, **settings)
        if len(arguments) == len(form.parameters) and not settings:
            return memory.call(compute, arguments, arguments)
        # The same call may be written in several ways.
        bound = form.bind(*arguments, **settings)
        bound.apply_defaults()
        return memory.call(compute, tuple(bound.arguments.values()), bound.args, bound.kwargs)

    return call


def _ambience() -> Hashable:
    """What else a result depends on: whether torch autocasts, and whether it may be trained through."""
    casts = tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in ("cpu", "cuda")
    )
    return casts, torch.is_grad_enabled()


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


def _version(tensor: Tensor) -> int:
    """How often a tensor, or what it is a view of, was written into.

    Tensors of inference mode do not count, but outside of that mode they cannot be written into.
    """
    return 0 if tensor.is_inference() else tensor._version


def _parted(value: Any, tensors: list[Tensor]) -> Any:
    """The same tensors in lists and tuples of their own.

    Args:
        value: What a function gave.
        tensors: Gets the tensors.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple):
        parts = [_parted(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_parted(each, tensors) for each in value]
    raise _Unshared
