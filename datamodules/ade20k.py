"""ADE20K: 150 classes of objects and stuff (SceneParse150)."""

from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCE_ZERO_LABEL, Benchmark, Layout, Source
from harness.data.vocabulary import Vocabulary

ZIP = Source("ADEChallengeData2016.zip", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip")

# Prompt names of OVDiff's release for ambiguous class names.
CLASS_NAME_OVERRIDES = {
    "ovdiff": {
        "tank": "liquid tank",
        "blind": "window blinds",
        "hood": "cooker hood",
        "ashcan": "wastebin",
        "case": "shop case",
        "apparel": "clothing",
    }
}


class ADE20K(Benchmark):
    """ADE20K, validation: 150 classes; other regions (value 0) are not scored.

    Args:
        root: ``ADEChallengeData2016``, or the parent folder of it or of ``ade``; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "ade20k"
    layout = Layout("images/validation", "annotations/validation")
    default_folders = ("ade/ADEChallengeData2016", "ADEChallengeData2016")
    num_images_published = 2000
    images_source = ZIP
    label_sources = (ZIP,)
    label_table = REDUCE_ZERO_LABEL
    class_name_overrides = CLASS_NAME_OVERRIDES

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """The 150 classes.

        mmsegmentation's list has ``'bed '`` with a trailing space, which is stripped.
        """
        names, palette = metainfo("ade", "ADE20KDataset")
        stripped = tuple(name.strip() for name in names)
        return Vocabulary(stripped, stuff=stuff_names("ade20k"), palette=palette)
