"""A folder of the user's images, as written by labelling tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.data.datamodule import LabeledImage, SegmentationData, file_signature, file_size
from harness.data.images import EXTENSIONS, read_image, read_labels
from harness.data.vocabulary import Vocabulary
from harness.system.errors import DataError

BACKGROUND = ("background", "_background_")
IGNORED_NAME = "__ignore__"


class Folder(SegmentationData):
    """Images, masks with the same stem, and a list of class names.

    ::

        root/classes.txt        one name per line; the line number, from 0, is the label value
        root/images/*.jpg       or the images in root itself
        root/masks/*.png        or the masks in root, beside images that are not PNG; indexed or grey PNG

    A first class ``background`` (or labelme's ``_background_``) makes class 0 the background; a first line
    ``__ignore__`` is skipped. Label 255 is not scored. Images without a mask can be segmented but not scored.

    Args:
        root: The folder.
        class_list: Path of the list of class names, relative to ``root``.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.

    Raises:
        DataError: The folder or the list is missing, or there are no images.
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
            raise DataError(f"there are no images ({', '.join(sorted(EXTENSIONS))}) in {self._images}")

    def _find(self) -> list[Path]:
        files = sorted(path for path in self._images.iterdir() if path.suffix.lower() in EXTENSIONS)
        stems: dict[str, Path] = {}
        for path in files:
            if path.suffix.lower() != ".png" or self._masks != self._images:
                first = stems.setdefault(path.stem, path)
                if first != path:
                    raise DataError(f"{first} and {path.name} have the same stem, so one mask would belong to both")
        if self._masks != self._images:
            return files
        # A PNG with the stem of another image is its mask.
        return [path for path in files if path.suffix.lower() != ".png" or path.stem not in stems]

    @property
    def vocabulary(self) -> Vocabulary:
        """The class names in the list."""
        return self._vocabulary

    def all_ids(self) -> Sequence[str]:
        """File names, sorted."""
        return [path.name for path in self._files]

    def _mask(self, index: int) -> Path | None:
        """The mask file of an image; None without one."""
        image = self._files[index]
        mask = self._masks / f"{image.stem}.png"
        return mask if mask != image and mask.is_file() else None

    def read(self, index: int) -> LabeledImage:
        """See ``SegmentationData.read``."""
        mask = self._mask(index)
        return LabeledImage(read_image(self._files[index]), None if mask is None else read_labels(mask))

    def content_signature(self, index: int) -> str:
        """The sizes of image and mask in bytes, and what the mask's end says of its labels."""
        return f"{file_size(self._files[index])} {file_signature(self._mask(index))}"


def read_classes(path: Path) -> Vocabulary:
    """Read the vocabulary from a text file with one class name per line.

    Raises:
        DataError: The file is missing or not a text file.
        ConfigurationError: A name is empty or repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"the list of class names {path} is missing: one name per line, line 0 for label 0") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of class names {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if names and names[0] == IGNORED_NAME:
        names.pop(0)
    background = bool(names) and names[0] in BACKGROUND
    if background:
        names[0] = "background"
    return Vocabulary(tuple(names), background=background)
