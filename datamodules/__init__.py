"""Benchmarks, one file each, and a folder of the user's images."""

from datamodules.ade20k import ADE20K
from datamodules.cityscapes import Cityscapes
from datamodules.coco27 import COCO27, COCO27Unlabeled
from datamodules.coco_object import COCOObject, COCOObject1K, COCOObjectTCL
from datamodules.coco_stuff import COCOStuff
from datamodules.context import Context59, Context60
from datamodules.folder import Folder
from datamodules.voc import VOC20, VOC21, VOCC, VOCCRelease

__all__ = [
    "ADE20K",
    "COCO27",
    "VOC20",
    "VOC21",
    "VOCC",
    "COCO27Unlabeled",
    "COCOObject",
    "COCOObject1K",
    "COCOObjectTCL",
    "COCOStuff",
    "Cityscapes",
    "Context59",
    "Context60",
    "Folder",
    "VOCCRelease",
]
