"""Segmentation of a user's own images: the data, and the files written per image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from harness.data.datamodule import LabeledImage, SegmentationData, shard
from harness.data.images import EXTENSIONS, read_image
from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.engine.evaluation import predict
from harness.engine.overlay import save_comparison, save_explanation, save_indexed
from harness.method.method import SegmentationMethod
from harness.system import distributed
from harness.system.errors import ConfigurationError, DataError


class ImageFiles(SegmentationData):
    """Image files without ground truth.

    Args:
        files: Images; a directory stands for the images in it.
        vocabulary: The class names; null lets the method find names in the images.
        background: Whether a vocabulary found by the method has a background class.
        num_workers: As in ``SegmentationData``.
        on_error: As in ``SegmentationData``.

    Raises:
        DataError: A file is missing, or a directory contains no image.
    """

    name = "images"

    def __init__(
        self,
        files: Sequence[str],
        vocabulary: Vocabulary | None,
        num_workers: int = 0,
        on_error: Literal["stop", "skip"] = "stop",
        background: bool = True,
    ) -> None:
        super().__init__(num_workers=num_workers, on_error=on_error)
        self._vocabulary = vocabulary
        self._background = background
        self._files: list[Path] = []
        for path in map(Path, files):
            if path.is_dir():
                inside = sorted(each for each in path.iterdir() if each.suffix.lower() in EXTENSIONS)
                if not inside:
                    raise DataError(f"there are no images in the folder {path}")
                self._files += inside
            elif path.is_file():
                self._files.append(path)
            else:
                raise DataError(f"the image {path} is missing")

    @property
    def vocabulary(self) -> Vocabulary:
        """The given or found class names; only a background until names are found."""
        return self._vocabulary or Vocabulary(("background",), background=True)

    @property
    def names_wanted(self) -> bool:
        """Whether the method still has to find names."""
        return self._vocabulary is None

    def adopt_names(self, names: Sequence[str]) -> None:
        """Use the names found in the images as the vocabulary.

        Raises:
            ConfigurationError: No name was found, or more than a vocabulary can hold.
        """
        if not names:
            raise ConfigurationError(
                "no caption names anything that could be segmented; give class names with --classes"
            )
        self._vocabulary = Vocabulary.from_class_names(list(dict.fromkeys(names)), self._background)

    def all_ids(self) -> Sequence[str]:
        """The files' paths."""
        return [str(path) for path in self._files]

    def read(self, index: int) -> LabeledImage:
        """See ``SegmentationData.read``."""
        return LabeledImage(read_image(self._files[index]), None)

    def content_signature(self, index: int) -> str:
        """The file's size in bytes."""
        return str(self._files[index].stat().st_size)

    def output_names(self) -> list[str]:
        """A plain, unique stem per image for its output files."""
        names: list[str] = []
        for path in self._files:
            stem = re.sub(r"[^\w.-]+", "_", path.stem) or "image"
            name, count = stem, 1
            while name in names:
                count += 1
                name = f"{stem}-{count}"
            names.append(name)
        return names


class SegmentWriter(Callback):
    """Writes ``NAME_labels.png`` (indexed) and ``NAME_overlay.png`` for every image.

    Args:
        data: The images.
        out: The directory to write to.
        explanations: Also write ``NAME_explanation.png`` with the evidence for each class, if the method supports it.
    """

    def __init__(self, data: ImageFiles, out: Path, explanations: bool = False) -> None:
        self.data = data
        self.out = out
        self.explanations = explanations
        self.shares: dict[int, dict[str, float]] = {}
        self.skipped: dict[int, str] = {}
        self._names = data.output_names()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a vocabulary: find names in this rank's images and merge the names of all ranks."""
        if not self.data.names_wanted:
            return
        indices = shard(range(len(self.data.ids)), trainer.global_rank, trainer.world_size)
        found = distributed.gather(
            distributed.run_and_sync_errors(lambda: [(n, self._find_names(pl_module, n)) for n in indices])
        )
        named = sorted(pair for rank in found for pair in rank)
        self.data.adopt_names([name for _, names in named for name in names])
        pl_module.bind(self.data.vocabulary, pl_module.protocol)  # type: ignore[operator]

    def _find_names(self, method: Any, index: int) -> list[str]:
        try:
            image = self.data.read(index).image
        except DataError:
            # ``predict_step`` raises or skips it.
            return []
        return list(method.find_names(torch.from_numpy(image).permute(2, 0, 1).contiguous().to(method.device)))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write each image's files and record the share of each class."""
        for sample, labels in outputs:
            if labels is None:
                self.skipped[sample.number] = sample.error or ""
                continue
            predicted = labels.cpu()
            name, vocabulary = self._names[sample.number], self.data.vocabulary
            save_indexed(self.out / f"{name}_labels.png", predicted.numpy(), vocabulary)
            image = sample.original.permute(1, 2, 0).cpu().numpy()
            save_comparison(self.out / f"{name}_overlay.png", image, {"segmentation": predicted.numpy()}, vocabulary)
            evidence = pl_module.explain(sample, labels) if self.explanations else []  # type: ignore[operator]
            if evidence:
                save_explanation(self.out / f"{name}_explanation.png", image, predicted.numpy(), evidence, vocabulary)
            counts = torch.bincount(predicted.flatten().long(), minlength=len(vocabulary)).double()
            shares = (100 * counts / counts.sum()).tolist()
            self.shares[sample.number] = dict(zip(vocabulary.names, shares, strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all shares on every rank."""
        gathered = distributed.gather([list(self.shares.items()), list(self.skipped.items())])
        self.shares = dict(sorted((index, value) for shares, _ in gathered for index, value in shares))
        self.skipped = dict(sorted((index, value) for _, skipped in gathered for index, value in skipped))


def segment(
    method: SegmentationMethod,
    images: ImageFiles,
    protocol: Protocol,
    trainer: Trainer,
    out: Path,
    explanations: bool = False,
) -> SegmentWriter:
    """Segment images and write the files of ``SegmentWriter``.

    Returns:
        The writer, with ``shares`` (percent of each class per image index) and ``skipped``.

    Raises:
        OvsegError: An error that the user can fix, in one sentence.
    """
    method.on_error = images.on_error
    method.names_found = images.names_wanted
    method.make_ready(images.vocabulary, protocol)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out} cannot be created: {error.strerror}") from error
    writer = SegmentWriter(images, out, explanations)
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    images.plan(protocol, shard(range(len(images.ids)), trainer.global_rank, trainer.world_size))
    predict(trainer, method, [method], images)
    return writer
