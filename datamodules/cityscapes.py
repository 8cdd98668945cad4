"""Cityscapes: 19 classes of street scenes."""

from functools import partial
from pathlib import Path

from datamodules.label_maps import lookup_table, remap_labels
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary

PAGE = "https://www.cityscapes-dataset.com/downloads/"
LABELS = Source("gtFine_trainvaltest.zip", PAGE)
# Annotation ids of the scored classes, in the order of their labels (labels.py of cityscapesscripts); all others are
# ignored.
SCORED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = lookup_table({id: label for label, id in enumerate(SCORED_IDS)})


class Cityscapes(Benchmark):
    """Cityscapes, validation: 19 classes.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``, or the parent folder of ``cityscapes``; null takes
            OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "cityscapes"
    layout = Layout("leftImg8bit/val", "gtFine/val", "_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    default_folders = ("cityscapes",)
    num_images_published = 500
    images_source = Source("leftImg8bit_trainvaltest.zip", PAGE)
    label_sources = (LABELS,)
    prepared_parts = frozenset({"labels"})

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The 19 classes."""
        names, palette = metainfo("cityscapes", "CityscapesDataset")
        return Vocabulary(names, stuff=stuff_names("cityscapes"), palette=palette)

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """``_labelTrainIds.png`` beside each published ``_labelIds.png``, as in cityscapesscripts."""
        labels = folder / cls.layout.labels
        return [
            Job(
                labels / f"{id}{cls.layout.label_suffix}",
                partial(remap_labels, labels / f"{id}_gtFine_labelIds.png", LABELS, TRAIN_IDS),
            )
            for id in cls.find_ids(folder)
        ]
