"""The vocabulary: ordered class names, colours, stuff classes, and whether class 0 is the background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from harness.system.configured import as_json
from harness.system.errors import ConfigurationError

MAX_CLASSES = 255  # label maps are uint8 and 255 is the ignored label


def voc_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """The PASCAL VOC colour map: the bits of the index spread over R, G and B, most significant first.

    Returns:
        ``count`` colours, each (R, G, B) in [0, 255]; the first is black.
    """
    colours = []
    for index in range(count):
        red = green = blue = 0
        bits = index
        for shift in range(7, -1, -1):
            red |= (bits & 1) << shift
            green |= (bits >> 1 & 1) << shift
            blue |= (bits >> 2 & 1) << shift
            bits >>= 3
        colours.append((red, green, blue))
    return tuple(colours)


@dataclass(frozen=True)
class Vocabulary:
    """Ordered class names; the index of a name is its label value.

    Attributes:
        names: Class names, the background first if there is one.
        background: Whether class 0 is the background, that is, everything outside the other classes.
        stuff: The names of stuff classes (amorphous regions such as sky), as opposed to things.
        palette: (R, G, B) in [0, 255] per class; the VOC colour map when left empty.
        members: For a benchmark that joins finer classes into groups, such as COCO-27: per class the names of the
            finer classes in it, none for the background. Empty for all other benchmarks.

    Raises:
        ConfigurationError: No names, an empty or repeated name, over 255 names, a palette or members of another
            length, or a member that is empty, repeated, or missing for a class other than the background.
    """

    names: tuple[str, ...]
    background: bool = False
    stuff: frozenset[str] = frozenset()
    palette: tuple[tuple[int, int, int], ...] = ()
    members: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.names or any(not name.strip() for name in self.names):
            raise ConfigurationError("a vocabulary needs at least one class and no empty class name")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ConfigurationError(f"the vocabulary names {', '.join(map(repr, repeated))} more than once")
        if len(self.names) > MAX_CLASSES:
            raise ConfigurationError(f"a vocabulary holds at most {MAX_CLASSES} classes, not {len(self.names)}")
        unknown = sorted(self.stuff - set(self.names))
        if unknown:
            raise ConfigurationError(f"the stuff list names {unknown[0]!r}, which is not in the vocabulary")
        if not self.palette:
            # Black is reserved for the background.
            first = 0 if self.background else 1
            object.__setattr__(self, "palette", voc_palette(len(self.names) + first)[first:])
        elif len(self.palette) != len(self.names):
            raise ConfigurationError(f"the palette has {len(self.palette)} colours for {len(self.names)} classes")
        if self.members:
            self._check_members()

    def _check_members(self) -> None:
        if len(self.members) != len(self.names):
            raise ConfigurationError(f"the vocabulary has members of {len(self.members)} of its {len(self)} classes")
        for label, (name, members) in enumerate(zip(self.names, self.members, strict=True)):
            if bool(members) == (self.background and label == 0):
                raise ConfigurationError(f"all classes but the background have members, unlike {name!r}")
        every = [member for members in self.members for member in members]
        wrong = sorted({member for member in every if every.count(member) > 1 or not member.strip()})
        if wrong:
            raise ConfigurationError(f"the vocabulary has the member {wrong[0]!r}, which is empty or there twice")

    def identity(self) -> dict[str, Any]:
        """All that a method can read of it, as JSON: everything but the colours."""
        return {field.name: as_json(getattr(self, field.name)) for field in fields(self) if field.name != "palette"}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def foreground(self) -> tuple[str, ...]:
        """All names but the background."""
        return self.names[1:] if self.background else self.names

    @property
    def fine_names(self) -> tuple[tuple[str, int], ...]:
        """The finest names that the benchmark has, without the background, each with the label that it means."""
        first = int(self.background)
        groups = self.members[first:] or tuple((name,) for name in self.foreground)
        return tuple((member, label) for label, group in enumerate(groups, first) for member in group)

    def prompt_names(self, aliases: Mapping[str, str]) -> dict[str, str]:
        """The name to use in prompts, per class name without the background.

        Args:
            aliases: Prompt names of classes whose own name makes a poor prompt.
        """
        return {name: aliases.get(name, name).strip() for name in self.foreground}

    @classmethod
    def from_class_names(cls, class_names: str | Sequence[str], background: bool = True) -> "Vocabulary":
        """The vocabulary of a user's class names.

        Args:
            class_names: A list, or one text such as ``"corgi, bench"``.
            background: Whether to put a background class in front, if it is not there.

        Raises:
            ConfigurationError: There is no name, or a name is repeated.
        """
        parts = class_names.split(",") if isinstance(class_names, str) else class_names
        names = [name.strip() for name in parts if name.strip()]
        if not names:
            raise ConfigurationError("--classes holds no class name; give them as --classes 'corgi, bench'")
        if background and names[0] != "background":
            names.insert(0, "background")
        return cls(tuple(names), background=background)
