"""COCO-27: the 27 supercategories of COCO-Stuff, 12 of things and 15 of stuff, and FreeSeg-Diff's with "unlabeled"."""

import numpy as np

from datamodules.coco import CATEGORY_IDS, COCOStuffMaps, coco_layout
from datamodules.label_maps import lookup_table
from datamodules.metainfo import metainfo
from harness.data.vocabulary import Vocabulary

# Supercategories in the annotations of COCO (instances) and COCO-Stuff (stuff), in the usual order: things, then stuff.
# The members are names of mmsegmentation's 171 classes.
THINGS = {
    "electronic": "tv, laptop, mouse, remote, keyboard, cell phone",
    "appliance": "microwave, oven, toaster, sink, refrigerator",
    "food": "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake",
    "furniture": "chair, couch, potted plant, bed, dining table, toilet",
    "indoor": "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
    "kitchen": "bottle, wine glass, cup, fork, knife, spoon, bowl",
    "accessory": "backpack, umbrella, handbag, tie, suitcase",
    "animal": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "outdoor": "traffic light, fire hydrant, stop sign, parking meter, bench",
    "person": "person",
    "sports": "frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket",
    "vehicle": "bicycle, car, motorcycle, airplane, bus, train, truck, boat",
}
STUFF = {
    "ceiling": "ceiling-other, ceiling-tile",
    "floor": "carpet, floor-marble, floor-other, floor-stone, floor-tile, floor-wood",
    "food-stuff": "food-other, fruit, salad, vegetable",
    "furniture-stuff": "cabinet, counter, cupboard, desk-stuff, door-stuff, furniture-other, light, mirror-stuff, "
    "shelf, stairs, table",
    "raw-material": "cardboard, metal, paper, plastic",
    "textile": "banner, blanket, cloth, clothes, curtain, mat, napkin, pillow, rug, textile-other, towel",
    "wall": "wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood",
    "window": "window-blind, window-other",
    "building": "bridge, building-other, house, roof, skyscraper, tent",
    "ground": "dirt, gravel, ground-other, mud, pavement, platform, playingfield, railroad, road, sand, snow",
    "plant": "branch, bush, flower, grass, leaves, moss, plant-other, straw, tree",
    "sky": "clouds, sky-other",
    "solid": "hill, mountain, rock, solid-other, stone, wood",
    "structural": "cage, fence, net, railing, structural-other",
    "water": "fog, river, sea, water-other, waterdrops",
}
GROUPS = {group: tuple(names.split(", ")) for group, names in {**THINGS, **STUFF}.items()}


class COCO27(COCOStuffMaps):
    """COCO-27, validation: the 27 supercategories of COCO-Stuff; unlabelled pixels are not scored.

    A method may ask for the names of the 171 classes that the groups join (``Vocabulary.fine_names``): what a group is
    called, such as "food-stuff", is nothing that an image shows.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco27"
    layout = coco_layout("_27TrainIds.png")

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """12 groups of things, 15 of stuff."""
        return Vocabulary(tuple(GROUPS), stuff=frozenset(STUFF), members=tuple(GROUPS.values()))

    @classmethod
    def stuff_map_table(cls) -> np.ndarray:
        """The group of each of the 171 classes, by value of COCO-Stuff's maps."""
        names, _ = metainfo("coco_stuff", "COCOStuffDataset")
        label_of = {name: label for label, members in enumerate(GROUPS.values()) for name in members}
        return lookup_table({id - 1: label_of[name] for id, name in zip(CATEGORY_IDS, names, strict=True)})


class COCO27Unlabeled(COCO27):
    """COCO-27 with "unlabeled" as its first class, as FreeSeg-Diff's release scores it.

    The release (``evaluation.py``, ``segment.py``) scores 27 + 1 classes. Label 0, "unlabeled", has the pixels that
    belong to none of the groups, COCO-Stuff's unlabelled value 255 among them; no pixel is left out.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations``, or its parent folder; null takes OVSEG_DATA.
        batch_size: Samples per call of ``predict_step``.
        num_workers: Processes per rank that read images.
        limit: Number of images to use, from the first; null takes all.
        on_error: Whether to ``stop`` at an unreadable image or ``skip`` it.
    """

    name = "coco27_unlabeled"
    # The files are those of COCO-27.
    label_table = lookup_table({group: group + 1 for group in range(len(GROUPS))}, rest=0)

    @classmethod
    def default_vocabulary(cls) -> Vocabulary:
        """Unlabeled, and the 27 groups."""
        return Vocabulary(
            ("unlabeled", *GROUPS), background=True, stuff=frozenset(STUFF), members=((), *GROUPS.values())
        )
