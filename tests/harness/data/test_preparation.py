"""``ovseg data prepare``: labels equal those of mmsegmentation's and TCL's converters; files are written once."""

import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

import datamodules
from datamodules.cityscapes import TRAIN_IDS
from datamodules.coco import CATEGORY_IDS, UNUSED_CATEGORY_IDS
from datamodules.coco27 import GROUPS, STUFF
from datamodules.context import LABEL_TABLE, SCORED_CLASSES, rasterize
from harness import DataError
from harness.data.benchmark import Benchmark
from harness.data.preparation import prepare
from tests.datamodules.trees import (
    HEIGHT,
    TREES,
    WIDTH,
    blocks,
    coco,
    context_ids,
    context_json,
    context_labels,
    context_mat,
    indexed,
    instances,
    voc,
    write,
    write_image,
)

CONVERTERS = Path(mmseg.__file__).parent / ".mim" / "tools" / "dataset_converters"
PREPARED = [name for name in TREES if getattr(datamodules, name).prepared_parts]


def converter(name: str) -> Any:
    """A script of mmsegmentation."""
    spec = importlib.util.spec_from_file_location(name, CONVERTERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        assert file.mode == "L"
        return np.array(file)


def prepare_benchmark(name: str, root: Path, workers: int = 1) -> Any:
    benchmark: type[Benchmark] = getattr(datamodules, name)
    return prepare(benchmark.jobs(benchmark.find_folder(root)), workers, name)


def snapshot(root: Path) -> dict[str, tuple[int, str]]:
    """Time of change and hash of every file."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def test_coco_stuff_has_the_train_ids_of_mmsegmentation() -> None:
    expected_values = converter("coco_stuff164k").clsID_to_trID
    values = datamodules.COCOStuff.stuff_map_table()
    assert {value: int(values[value]) for value in expected_values} == expected_values
    assert all(values[value] == 255 for value in range(256) if value not in expected_values)


def test_coco_object_tcl_maps_all_but_things_to_background() -> None:
    # TCL and GroupViT: the train id of COCO-Stuff plus 1, and 0 for values over 90, 255 among them.
    expected_values = {
        value: 0 if value > 90 else label + 1 for value, label in converter("coco_stuff164k").clsID_to_trID.items()
    }
    values = datamodules.COCOObjectTCL.stuff_map_table()
    assert {value: int(values[value]) for value in expected_values} == expected_values


def test_context_has_the_classes_of_mmsegmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detail", types.SimpleNamespace(Detail=None))
    expected_values = converter("pascal_context")._mapping
    assert [0, *SCORED_CLASSES] == expected_values.tolist()
    assert LABEL_TABLE[expected_values].tolist() == list(range(60))
    assert LABEL_TABLE.astype(bool).sum() == 59


def test_cityscapes_has_19_of_34_ids() -> None:
    # labels.py of cityscapesscripts: name, id, train id.
    train_ids = {
        "road": (7, 0),
        "pole": (17, 5),
        "sky": (23, 10),
        "truck": (27, 14),
        "bus": (28, 15),
        "bicycle": (33, 18),
    }
    names = datamodules.Cityscapes.default_vocabulary().names
    assert all(names[label] == name and TRAIN_IDS[id] == label for name, (id, label) in train_ids.items())
    assert sorted(TRAIN_IDS[TRAIN_IDS != 255]) == list(range(19))
    # Polygon, guard rail, caravan, trailer and the unlabelled are ignored.
    assert all(TRAIN_IDS[id] == 255 for id in (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255))


def test_coco27_puts_each_of_171_classes_into_one_group() -> None:
    names = datamodules.COCOStuff.default_vocabulary().names
    assert sorted(name for members in GROUPS.values() for name in members) == sorted(names)
    stuff = datamodules.COCOStuff.default_vocabulary().stuff
    for group, members in GROUPS.items():
        assert set(members) <= stuff if group in STUFF else not set(members) & stuff
    values = datamodules.COCO27.stuff_map_table()
    for number, name in zip(CATEGORY_IDS, names, strict=True):
        assert name in list(GROUPS.values())[values[number - 1]]
    assert all(values[number - 1] == 255 for number in UNUSED_CATEGORY_IDS)
    assert values[255] == 255


def test_instances_become_labels_the_first_one_on_top(tmp_path: Path) -> None:
    coco(tmp_path)
    assert prepare_benchmark("COCOObject", tmp_path).errors == []
    folder = tmp_path / "coco_stuff164k" / "annotations" / "val2017"
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for shape in reversed(instances(0)):
        polygons = shape["segmentation"]
        encoded = mask.merge(mask.frPyObjects(polygons, HEIGHT, WIDTH)) if isinstance(polygons, list) else polygons
        expected[mask.decode(encoded) > 0] = {1: 1, 18: 17, 90: 80}[shape["category_id"]]
    assert np.array_equal(labels(folder / "000000000139_objects.png"), expected)
    assert (expected[25, 30], expected[45, 60], expected[52, 30], expected[57, 5], expected[0, 0]) == (1, 17, 17, 80, 0)
    assert not labels(folder / "000000000632_objects.png").any()


@pytest.mark.parametrize("tree", [context_json, context_mat])
def test_context_is_the_same_from_json_and_from_mat(tree: Any, tmp_path: Path) -> None:
    tree(tmp_path)
    assert prepare_benchmark("Context60", tmp_path).errors == []
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    listed = (folder / "ImageSets" / "SegmentationContext" / "val.txt").read_text().split()
    assert listed == sorted(context_ids())
    for index, id in enumerate(context_ids()):
        numbers = context_labels(index)
        expected = sum((numbers == number) * (label + 1) for label, number in enumerate(SCORED_CLASSES))
        assert np.array_equal(labels(folder / "SegmentationClassContext" / f"{id}.png"), expected)


def test_a_later_mask_of_context_lies_over_an_earlier_one() -> None:
    import io

    whole = mask.encode(np.asfortranarray(np.ones((4, 6), dtype=np.uint8)))
    corner = np.zeros((4, 6), dtype=np.uint8)
    corner[:2, :2] = 1
    shapes = [(2, whole), (454, mask.encode(np.asfortranarray(corner)))]
    label_map = np.array(Image.open(io.BytesIO(rasterize("x.json", 4, 6, shapes))))
    assert (label_map[0, 0], label_map[3, 5]) == (58, 1)
    with pytest.raises(DataError, match=r"x\.json holds a damaged mask"):
        rasterize("x.json", 5, 6, shapes)


def test_voc_c_lists_images_with_one_object_class(tmp_path: Path) -> None:
    voc(tmp_path)
    assert prepare_benchmark("VOCC", tmp_path).num_written == 1
    listed = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val_voc_c.txt"
    assert listed.read_text() == "2008_000042\n"


def printed_by_the_release(values: list[int]) -> str:
    """The label values of an image as FreeSeg-Diff's release writes them, the border being background there."""
    array = np.unique(np.where(np.array(values) == 255, 0, np.array(values)).astype(np.uint8))
    return str(array).replace("[", "").replace("]", "").replace(" ", "")


def test_the_two_lists_of_voc_c(tmp_path: Path) -> None:
    """The paper's intent, one class of object; the release's rule, at most two characters in the printed labels."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    cases: dict[str, tuple[list[int], bool, bool]] = {
        "a_one_digit": ([0, 7, 255], True, True),
        "b_nine": ([0, 9], True, True),
        "c_two_digits": ([0, 15, 255], True, False),
        "d_ten": ([0, 10], True, False),
        "e_two_classes": ([0, 3, 4], False, False),
        "f_two_classes_without_background": ([3, 4], False, True),
        "g_two_digits_without_background": ([15], True, True),
        "h_two_digits_and_the_border": ([15, 255], True, False),
        "i_nothing": ([0, 255], False, True),
        "j_one_digit_and_the_border": ([7, 255], True, True),
    }
    for index, (id, (values, _, by_release)) in enumerate(cases.items()):
        write_image(folder / "JPEGImages" / f"{id}.jpg", index)
        indexed(folder / "SegmentationClass" / f"{id}.png", blocks(values, index))
        assert (len(printed_by_the_release(values)) <= 2) == by_release, id
    write(folder / "ImageSets" / "Segmentation" / "val.txt", "".join(f"{id}\n" for id in cases))
    for name, file, place in (("VOCC", "val_voc_c.txt", 1), ("VOCCRelease", "val_voc_c_release.txt", 2)):
        assert prepare_benchmark(name, tmp_path).errors == []
        listed = (folder / "ImageSets" / "Segmentation" / file).read_text().split()
        assert listed == [id for id, case in cases.items() if case[place]]
        assert getattr(datamodules, name)(str(tmp_path)).ids == listed


def test_clip_diys_release_drops_images_with_few_labelled_pixels(tmp_path: Path) -> None:
    """``thirdparty/mscoco.py`` keeps an image if ``(mask > 0).sum() >= 1000``, of the instances' union."""
    coco(tmp_path)
    folder = tmp_path / "coco_stuff164k"
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for number, (rows, columns) in {139: (25, 40), 285: (27, 37), 632: (50, 20)}.items():
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != number]
        square = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        square[:rows, :columns] = 1
        counts = mask.encode(np.asfortranarray(square))["counts"].decode()
        # Twice the same pixels: they count once.
        for category in (1, 3):
            shape = {"category_id": category, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
            content["annotations"].append(
                {"id": len(content["annotations"]) + number, "image_id": number, "iscrowd": 0, **shape}
            )
    path.write_text(json.dumps(content))
    # 25 x 40 and 50 x 20 are 1,000 pixels, 27 x 37 are 999.
    for name in ("COCOObject1K", "COCOObject", "COCOObject1K"):
        prepare_benchmark(name, tmp_path)
        kept = datamodules.COCOObject1K(str(tmp_path))
        assert list(kept.ids) == ["000000000139", "000000000632"]
        # Made again from label maps that are there already, the list is the same.
        (folder / "annotations" / "val2017_objects_1k.txt").unlink()
        prepare_benchmark("COCOObject1K", tmp_path)
    everything = datamodules.COCOObject(str(tmp_path))
    assert len(everything.ids) == 3
    assert np.array_equal(kept.read(1).labels, everything.read(2).labels)
    assert kept.fingerprint != everything.fingerprint


@pytest.mark.parametrize("name", PREPARED)
def test_the_second_time_nothing_is_written_and_published_files_stay(name: str, tmp_path: Path) -> None:
    TREES[name](tmp_path)
    before = snapshot(tmp_path)
    first = prepare_benchmark(name, tmp_path)
    after = snapshot(tmp_path)
    assert (first.num_existing, first.errors) == (0, [])
    assert len(after) - len(before) == first.num_written > 0
    assert {path: after[path] for path in before} == before
    second = prepare_benchmark(name, tmp_path)
    assert (second.num_existing, second.num_written, second.errors) == (first.num_written, 0, [])
    assert snapshot(tmp_path) == after


def test_it_resumes_and_a_corrupt_published_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    coco(tmp_path)
    folder = tmp_path / "coco_stuff164k" / "annotations" / "val2017"
    damaged = folder / "000000000285.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:40])
    report = prepare_benchmark("COCOStuff", tmp_path)
    assert (report.num_existing, report.num_written, len(report.errors)) == (0, 2, 1)
    assert f"the label map {damaged} is damaged or not an image" in report.errors[0]
    assert not (folder / "000000000285_labelTrainIds.png").exists()
    damaged.write_bytes(whole)
    report = prepare_benchmark("COCOStuff", tmp_path)
    assert (report.num_existing, report.num_written, report.errors) == (2, 1, [])
    assert not list(folder.glob("*.tmp"))


def test_several_processes_write_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.system.parallel.MIN_PARALLEL_ITEMS", 1)
    for name in ("one", "two"):
        coco(tmp_path / name)
    assert prepare_benchmark("COCOObject", tmp_path / "one").num_written == 3
    assert prepare_benchmark("COCOObject", tmp_path / "two", workers=2).num_written == 3
    one, two = (
        {Path(path).name: digest for path, (_, digest) in snapshot(tmp_path / name).items()} for name in ("one", "two")
    )
    assert one == two


def test_missing_published_files_are_named_with_their_source(tmp_path: Path) -> None:
    context_mat(tmp_path / "a")
    folder = tmp_path / "a" / "VOCdevkit" / "VOC2010"
    (folder / "trainval").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"neither .*trainval_merged.json \(https://codala.*\) nor .*cs\.stanford\.edu"):
        prepare_benchmark("Context59", tmp_path / "a")
    coco(tmp_path / "b")
    annotations = tmp_path / "b" / "coco_stuff164k" / "annotations"
    path = annotations / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "categories": content["categories"][:5]}))
    with pytest.raises(DataError, match="does not have the 80 categories of COCO"):
        prepare_benchmark("COCOObject", tmp_path / "b")
    path.write_text(json.dumps({**content, "images": content["images"][:2]}))
    with pytest.raises(DataError, match=r"instances_val2017\.json"):
        prepare_benchmark("COCOObject", tmp_path / "b")
    path.write_text("{")
    with pytest.raises(DataError, match="is damaged or not that of http://images"):
        prepare_benchmark("COCOObject", tmp_path / "b")
    path.unlink()
    with pytest.raises(DataError, match=r"instances_val2017\.json is missing: it is in annotations_trainval2017\.zip"):
        prepare_benchmark("COCOObject", tmp_path / "b")
    (annotations / "val2017" / "000000000139.png").unlink()
    assert (
        "000000000139.png is missing: it is in stuffthingmaps" in prepare_benchmark("COCO27", tmp_path / "b").errors[0]
    )


def test_a_corrupt_mat_file_is_named(tmp_path: Path) -> None:
    context_mat(tmp_path)
    path = tmp_path / "VOCdevkit" / "VOC2010" / "trainval" / "2008_000002.mat"
    path.write_bytes(path.read_bytes()[:150])
    report = prepare_benchmark("Context60", tmp_path)
    assert len(report.errors) == 1
    assert f"{path} is damaged or not one of https://cs.stanford.edu" in report.errors[0]


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    coco(tmp_path)
    folder = tmp_path / "coco_stuff164k" / "annotations" / "val2017"
    # Root may write anywhere, so a file stands where the folder should be.
    folder.rename(tmp_path / "maps")
    folder.write_text("")
    report = prepare_benchmark("COCOObject", tmp_path)
    assert len(report.errors) == 3
    assert "000000000139_objects.png cannot be written" in report.errors[0]
