"""Cityscapes: 19 classes of street scenes."""

from functools import partial
from pathlib import Path

from datamodules.label_maps import table, translated
from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import Benchmark, Job, Layout, Source
from harness.data.vocabulary import Vocabulary

PAGE = "https://www.cityscapes-dataset.com/downloads/"
LABELS = Source("gtFine_trainvaltest.zip", PAGE)
# The scored classes by the ids of the annotations, in the order of their labels (labels.py of cityscapesscripts); all
# others are ignored.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = table({id: label for label, id in enumerate(IDS)})


class Cityscapes(Benchmark):
    """Cityscapes, validation: 19 classes.

    Args:
        root: The folder in which ``leftImg8bit`` and ``gtFine`` lie, or the one in which ``cityscapes`` lies; null
            takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "cityscapes"
    layout = Layout("leftImg8bit/val", "gtFine/val", "_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    places = ("cityscapes",)
    published = 500
    images_from = Source("leftImg8bit_trainvaltest.zip", PAGE)
    labels_from = (LABELS,)
    prepared = frozenset({"labels"})

    @classmethod
    def named(cls) -> Vocabulary:
        """The 19 classes."""
        names, palette = metainfo("cityscapes", "CityscapesDataset")
        return Vocabulary(names, stuff=stuff_names("cityscapes"), palette=palette)

    @classmethod
    def jobs(cls, folder: Path) -> list[Job]:
        """``_labelTrainIds.png`` beside each published ``_labelIds.png``, as cityscapesscripts makes them."""
        labels = folder / cls.layout.labels
        return [
            Job(
                labels / f"{id}{cls.layout.label_suffix}",
                partial(translated, labels / f"{id}_gtFine_labelIds.png", LABELS, TRAIN_IDS),
            )
            for id in cls.find_ids(folder)
        ]
