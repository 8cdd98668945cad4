"""COCO-27: the 27 supercategories of COCO-Stuff, 12 of things and 15 of stuff."""

import numpy as np

from datamodules.coco import NUMBERS, FromMaps, labelled
from datamodules.label_maps import table
from datamodules.metainfo import metainfo
from harness.data.vocabulary import Vocabulary

# Supercategories as the annotations of COCO (instances) and COCO-Stuff (stuff) give them, in the usual order: things,
# then stuff. Each holds names of mmsegmentation's 171 classes.
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


class COCO27(FromMaps):
    """COCO-27, validation: the 27 supercategories of COCO-Stuff; unlabelled pixels are not scored.

    Args:
        root: ``coco_stuff164k``, with ``images`` and ``annotations`` in it, or the folder in which it lies; null takes
            OVSEG_DATA.
        batch_size: As in ``SegmentationData``.
        num_workers: Likewise.
        limit: Likewise.
        on_error: Likewise.
    """

    name = "coco27"
    layout = labelled("_27TrainIds.png")

    @classmethod
    def named(cls) -> Vocabulary:
        """12 groups of things, 15 of stuff."""
        return Vocabulary(tuple(GROUPS), stuff=frozenset(STUFF))

    @classmethod
    def values(cls) -> np.ndarray:
        """The group of each of the 171 classes."""
        names, _ = metainfo("coco_stuff", "COCOStuffDataset")
        group = {name: label for label, members in enumerate(GROUPS.values()) for name in members}
        return table({number - 1: group[name] for number, name in zip(NUMBERS, names, strict=True)})
