"""A directory of the user's own pictures, as it comes out of a labelling tool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.data.datamodule import Picture, SegmentationData
from harness.data.images import EXTENSIONS, read_image, read_labels
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

BACKGROUND = ("background", "_background_")
IGNORED = "__ignore__"


class Folder(SegmentationData):
    """Pictures, masks with the same stem, and a list of class names.

    ::

        root/classes.txt        one name a line; the line number, from 0, is the label value
        root/images/*.jpg       or the pictures in root itself
        root/masks/*.png        or the masks in root, beside pictures that are not PNG; indexed or grey PNG

    A first class ``background`` (or labelme's ``_background_``) makes class 0 the background; a first line
    ``__ignore__`` is skipped. Label 255 is not scored. Pictures without a mask can be segmented, not scored.

    Args:
        root: The directory.
        class_list: The list of names, relative to ``root``.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.

    Raises:
        DataError: The directory, the list, or every picture is missing.
    """

    name = "folder"

    def __init__(
        self,
        root: str,
        class_list: str = "classes.txt",
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(batch_size, num_workers, limit, on_error)
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"the folder {self.root} is missing (--data.root)")
        self._vocabulary = read_classes(self.root / class_list)
        images, masks = self.root / "images", self.root / "masks"
        self._images = images if images.is_dir() else self.root
        self._masks = masks if masks.is_dir() else self.root
        self._files = self._find()
        if not self._files:
            raise DataError(f"there are no pictures ({', '.join(sorted(EXTENSIONS))}) in {self._images}")

    def _find(self) -> list[Path]:
        files = sorted(path for path in self._images.iterdir() if path.suffix.lower() in EXTENSIONS)
        stems: dict[str, Path] = {}
        for path in files:
            if path.suffix.lower() != ".png" or self._masks != self._images:
                known = stems.setdefault(path.stem, path)
                if known != path:
                    raise DataError(f"{known} and {path.name} have the same stem, so one mask would belong to both")
        if self._masks != self._images:
            return files
        # Beside a photograph, a PNG with its stem is its mask.
        return [path for path in files if path.suffix.lower() != ".png" or path.stem not in stems]

    @property
    def vocabulary(self) -> Vocabulary:
        """The names in the list."""
        return self._vocabulary

    def all_ids(self) -> Sequence[str]:
        """File names, sorted."""
        return [path.name for path in self._files]

    def _mask(self, index: int) -> Path | None:
        picture = self._files[index]
        mask = self._masks / f"{picture.stem}.png"
        return mask if mask != picture and mask.is_file() else None

    def read(self, index: int) -> Picture:
        """See ``SegmentationData.read``."""
        mask = self._mask(index)
        return Picture(read_image(self._files[index]), None if mask is None else read_labels(mask))

    def content(self, index: int) -> str:
        """The sizes of picture and mask in bytes."""
        mask = self._mask(index)
        sizes = [
            path.stat().st_size if path is not None and path.exists() else -1 for path in (self._files[index], mask)
        ]
        return f"{sizes[0]} {sizes[1]}"


def read_classes(path: Path) -> Vocabulary:
    """The vocabulary of a text file with one class name a line.

    Raises:
        DataError: The file is missing or no text.
        ConfigurationError: A name is empty or repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"the list of class names {path} is missing: one name a line, line 0 for label 0") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of class names {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if names and names[0] == IGNORED:
        names.pop(0)
    background = bool(names) and names[0] in BACKGROUND
    if background:
        names[0] = "background"
    return Vocabulary(tuple(names), background=background)
