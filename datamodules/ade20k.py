"""ADE20K: 150 classes of objects and stuff (SceneParse150)."""

from datamodules.metainfo import metainfo
from datamodules.stuff import stuff_names
from harness.data.benchmark import REDUCED, Benchmark, Layout, Source
from harness.data.vocabulary import Vocabulary

ZIP = Source("ADEChallengeData2016.zip", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip")

# Words that the release of OVDiff puts for ambiguous names.
RENAMED = {
    "ovdiff": {
        "tank": "liquid tank",
        "blind": "window blinds",
        "hood": "cooker hood",
        "ashcan": "wastebin",
        "case": "shop case",
        "keyboard": "computer keyboard",
        "apparel": "clothing",
    }
}


class ADE20K(Benchmark):
    """ADE20K, validation: 150 classes; other regions (value 0) are not scored.

    Args:
        root: ``ADEChallengeData2016``, or the folder in which it or ``ade`` lies; null takes OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "ade20k"
    layout = Layout("images/validation", "annotations/validation")
    places = ("ade/ADEChallengeData2016", "ADEChallengeData2016")
    published = 2000
    images_from = ZIP
    labels_from = (ZIP,)
    decode = REDUCED
    renamed = RENAMED

    @classmethod
    def named(cls) -> Vocabulary:
        """The 150 classes.

        mmsegmentation's list has ``'bed '``, with a space; here it is taken off, once, for prompts and tables alike.
        """
        names, palette = metainfo("ade", "ADE20KDataset")
        stripped = tuple(name.strip() for name in names)
        return Vocabulary(stripped, stuff=stuff_names("ade20k"), palette=palette)
