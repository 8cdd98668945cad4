"""The thing/stuff lists hold names of the benchmarks and nothing else."""

import pytest
from mmseg.datasets import ADE20KDataset, CityscapesDataset, COCOStuffDataset, PascalContextDataset59, PascalVOCDataset

from datamodules.stuff import available, stuff_names
from harness import ConfigurationError

BENCHMARKS = {
    "voc": PascalVOCDataset,
    "context": PascalContextDataset59,
    "coco_stuff": COCOStuffDataset,
    "ade20k": ADE20KDataset,
    "cityscapes": CityscapesDataset,
}
COUNTS = {"voc": 0, "coco_object": 0, "context": 22, "coco_stuff": 91, "ade20k": 39, "cityscapes": 8}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_listed_name_is_a_class(name: str) -> None:
    classes = {label.strip() for label in BENCHMARKS[name].METAINFO["classes"]}
    assert stuff_names(name) <= classes


def test_all_benchmarks_have_a_list_of_the_stated_length() -> None:
    assert {name: len(stuff_names(name)) for name in available()} == COUNTS


def test_an_unknown_benchmark_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'context'"):
        stuff_names("contexts")
