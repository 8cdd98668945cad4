"""Every benchmark: names and labels are mmsegmentation's, and CLIP-DIY runs on it with Miniature's CLIP."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import mmseg.datasets
import numpy as np
import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations

import datamodules
from harness import ConfigurationError, DataError, Protocol, SegmentationData, evaluate
from harness.data.benchmark import REDUCE_ZERO_LABEL, Benchmark
from harness.data.preparation import prepare
from methods import ClipDIY
from methods.backbones import HubViT, OpenCLIP
from methods.regions import Found
from tests.datamodules.trees import TREES, blocks, grey, voc
from tests.running import REPOSITORY

CONFIGS = REPOSITORY / "configs"
# The data set class of mmsegmentation that reads the same files, and how it is told to.
MMSEG: dict[str, tuple[str, dict[str, Any]]] = {
    "VOC20": ("PascalVOCDataset", {"reduce_zero_label": True}),
    "VOC21": ("PascalVOCDataset", {}),
    "VOCC": ("PascalVOCDataset", {}),
    "VOCCRelease": ("PascalVOCDataset", {}),
    "Context59": ("PascalContextDataset59", {}),
    "Context60": ("PascalContextDataset", {}),
    "COCOObject": ("BaseSegDataset", {}),
    "COCOObject1K": ("BaseSegDataset", {}),
    "COCOObjectTCL": ("BaseSegDataset", {}),
    "COCOStuff": ("COCOStuffDataset", {}),
    "COCO27": ("BaseSegDataset", {}),
    "ADE20K": ("ADE20KDataset", {}),
    "Cityscapes": ("CityscapesDataset", {}),
}
SIZES = {
    "VOC20": 20, "VOC21": 21, "VOCC": 21, "VOCCRelease": 21, "Context59": 59, "Context60": 60, "COCOObject": 81,
    "COCOObjectTCL": 81, "COCOObject1K": 81, "COCOStuff": 171, "COCO27": 27, "ADE20K": 150, "Cityscapes": 19,
}  # fmt: skip
WITH_BACKGROUND = {
    "VOC21", "VOCC", "VOCCRelease", "Context60", "COCOObject", "COCOObject1K", "COCOObjectTCL",
}  # fmt: skip


def benchmark(name: str) -> type[Benchmark]:
    return getattr(datamodules, name)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of data sets per benchmark, prepared if needed."""
    data_roots = {}
    for name, tree in TREES.items():
        root = tmp_path_factory.mktemp(name)
        tree(root)
        done = prepare(benchmark(name).jobs(benchmark(name).find_folder(root)), 1, name)
        assert done.errors == []
        data_roots[name] = root
    return data_roots


def mmseg_labels(name: str, root: Path) -> dict[str, np.ndarray]:
    """The label map of every image as mmsegmentation reads it, in its order."""
    ours = benchmark(name)
    theirs, settings = MMSEG[name]
    if ours.layout.ids is not None:
        settings = settings | {"ann_file": ours.layout.ids}
    data = getattr(mmseg.datasets, theirs)(
        data_root=str(ours.find_folder(root)),
        data_prefix={"img_path": ours.layout.images, "seg_map_path": ours.layout.labels},
        img_suffix=ours.layout.image_suffix,
        seg_map_suffix=ours.layout.label_suffix,
        pipeline=[LoadAnnotations()],
        **settings,
    )
    return {item["img_path"]: item["gt_seg_map"] for item in (data[index] for index in range(len(data)))}


@pytest.mark.parametrize("name", TREES)
def test_images_and_labels_are_those_of_mmsegmentation(name: str, roots: dict[str, Path]) -> None:
    data = benchmark(name)(str(roots[name]))
    expected = mmseg_labels(name, roots[name])
    assert [str(data.image_path(index)) for index in range(len(data.ids))] == list(expected)
    for index, theirs in enumerate(expected.values()):
        labeled = data.read(index)
        assert labeled.labels.dtype == np.uint8
        assert np.array_equal(labeled.labels, theirs)
        assert labeled.image.shape == (*theirs.shape, 3)
        assert np.all((theirs < SIZES[name]) | (theirs == 255))


@pytest.mark.parametrize("name", TREES)
def test_names_and_palette_are_those_of_mmsegmentation(name: str) -> None:
    vocabulary = benchmark(name).default_vocabulary()
    assert len(vocabulary) == SIZES[name]
    assert vocabulary.background == (name in WITH_BACKGROUND)
    theirs = MMSEG[name][0]
    if theirs == "BaseSegDataset":
        return
    info = getattr(mmseg.datasets, theirs).METAINFO
    first = len(info["classes"]) - SIZES[name]
    assert list(vocabulary.names) == [label.strip() for label in info["classes"][first:]]
    assert [list(colour) for colour in vocabulary.palette] == info["palette"][first:]


def test_coco_object_has_the_things_of_coco_stuff() -> None:
    stuff, objects = benchmark("COCOStuff").default_vocabulary(), benchmark("COCOObject").default_vocabulary()
    assert objects.names == ("background", *stuff.names[:80])
    assert objects.palette[1:] == stuff.palette[:80]
    assert benchmark("COCOObjectTCL").default_vocabulary() == objects


def test_the_two_splits_of_context() -> None:
    """PASCAL in Detail's JSON file has 5,104 validation images, VOC 2010's own list 5,105, each with a .mat file."""
    for name in ("Context59", "Context60"):
        assert benchmark(name).num_images_published == 5104
        assert list(benchmark(name).other_splits) == [5105]
        assert "trainval.tar.gz" in benchmark(name).other_splits[5105]


def test_coco27_with_unlabeled_scores_every_pixel_of_the_same_files(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["COCO27"], tmp_path / "data")
    plain, with_unlabeled = (benchmark(name)(str(tmp_path / "data")) for name in ("COCO27", "COCO27Unlabeled"))
    partly = plain.read(0).labels.copy()
    partly[:20, :30] = 255
    grey(plain.label_path(0), partly)
    names = with_unlabeled.vocabulary.names
    assert (len(names), names[0], with_unlabeled.vocabulary.background) == (28, "unlabeled", True)
    assert names[1:] == plain.vocabulary.names
    assert with_unlabeled.name == "coco27_unlabeled"
    for index in range(len(plain.ids)):
        ours, theirs = with_unlabeled.read(index).labels, plain.read(index).labels.astype(int)
        # FreeSeg-Diff's release: 255, and what is in no group, is 0; the groups follow.
        assert np.array_equal(ours, np.where(theirs == 255, 0, theirs + 1))
    assert np.count_nonzero(with_unlabeled.read(0).labels == 0) == 600
    assert plain.fingerprint != with_unlabeled.fingerprint


def test_members_of_coco27_are_the_171_classes_of_coco_stuff() -> None:
    stuff = benchmark("COCOStuff").default_vocabulary()
    assert benchmark("COCOStuff").default_vocabulary().members == ()
    for name, first in (("COCO27", 0), ("COCO27Unlabeled", 1)):
        vocabulary = benchmark(name).default_vocabulary()
        labels = dict(vocabulary.fine_names)
        assert set(labels) == set(stuff.names)
        of = {member: vocabulary.names[labels[member]] for member in ("cat", "apple", "salad", "desk-stuff", "person")}
        assert of == {
            "cat": "animal",
            "apple": "food",
            "salad": "food-stuff",
            "desk-stuff": "furniture-stuff",
            "person": "person",
        }
        assert min(labels.values()) == first
        assert benchmark(name).vocabulary_for("mmseg").members == vocabulary.members


@pytest.mark.parametrize("name", ["VOC21", "VOCC"])
def test_voc_s_border_is_ignored_or_background(name: str, roots: dict[str, Path]) -> None:
    root = str(roots[name])
    plain, counted = benchmark(name)(root), benchmark(name)(root, void="background")
    borders = 0
    for index in range(len(plain.ids)):
        given, labels = plain.read(index).labels, counted.read(index).labels
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, np.where(given == 255, 0, given))
        borders += np.count_nonzero(given == 255)
    assert borders > 0
    assert plain.fingerprint != counted.fingerprint


def test_voc_s_border_is_no_background_where_there_is_none(roots: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="voc20 has no background"):
        benchmark("VOC20")(str(roots["VOC20"]), void="background")


def test_the_trailing_space_in_a_name_of_ade_is_stripped() -> None:
    assert "bed " in mmseg.datasets.ADE20KDataset.METAINFO["classes"]
    names = benchmark("ADE20K").default_vocabulary().names
    assert "bed" in names
    assert all(label == label.strip() for label in names)


@pytest.fixture(scope="module")
def models() -> tuple[OpenCLIP, Found]:
    """Miniature's CLIP and FOUND, loaded once."""
    weights = REPOSITORY / "miniature" / "weights"
    clip = OpenCLIP(f"local-dir:{weights / 'clip'}")
    saliency = Found(HubViT(str(weights / "dino")), str(weights / "found" / "found.safetensors"))
    for model in (clip, saliency):
        model.load()
        model.load = lambda: None
    return clip, saliency


@pytest.mark.parametrize("name", TREES)
def test_clip_diy_runs_on_it(name: str, roots: dict[str, Path], models: tuple[OpenCLIP, Found], tmp_path: Path) -> None:
    method = ClipDIY(*models, patch_sizes=(96, 48))
    protocol = Protocol(name="test", size=(448, 96), window=96, stride=48)
    data = benchmark(name)(str(roots[name]))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    results = evaluate(method, data, protocol, trainer, tmp_path / "run").results
    expected = mmseg_labels(name, roots[name])
    assert (results["status"], results["num_images"], results["skipped"]) == ("complete", len(expected), 0)
    assert results["data"] == benchmark(name).name
    assert [row["name"] for row in results["per_class"]] == list(benchmark(name).default_vocabulary().names)
    areas = sum(np.bincount(labels.ravel(), minlength=256) for labels in expected.values())
    assert [row["label"] for row in results["per_class"]] == areas[: SIZES[name]].tolist()
    assert sum(row["prediction"] for row in results["per_class"]) == areas[: SIZES[name]].sum()


def test_every_benchmark_has_a_configuration_that_finds_it(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.stem for path in (CONFIGS / "data").glob("*.yaml")}
    assert files >= {benchmark(name).name for name in TREES}
    for name, root in roots.items():
        monkeypatch.setenv("OVSEG_DATA", str(root))
        built = ArgumentParser()
        built.add_subclass_arguments(SegmentationData, "data")
        path = CONFIGS / "data" / f"{benchmark(name).name}.yaml"
        data = built.instantiate(built.parse_args(["--data", str(path)])).data
        assert type(data) is benchmark(name)
        assert len(data.ids) >= 1


def test_reduced_labels_are_mmsegmentations_for_every_value() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(REDUCE_ZERO_LABEL[values], reduced_by_mmsegmentation(values))


def reduced_by_mmsegmentation(values: np.ndarray) -> np.ndarray:
    content = cv2.imencode(".png", values)[1].tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fileio, "get", lambda *_, **__: content)
        results: dict[str, Any] = {"seg_map_path": "x", "reduce_zero_label": True, "seg_fields": [], "label_map": None}
        LoadAnnotations()._load_seg_map(results)
    return results["gt_seg_map"]


def test_the_root_may_be_any_level(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = benchmark("VOC21")
    base, folder = roots["VOC21"], roots["VOC21"] / "VOCdevkit" / "VOC2012"
    assert {data(str(root)).root for root in (base, folder.parent, folder)} == {folder}
    monkeypatch.setenv("OVSEG_DATA", str(base))
    assert data().root == folder
    assert data(str(roots["VOC20"])).root == roots["VOC20"] / "VOCdevkit" / "VOC2012"


def test_a_data_module_can_be_sent_to_a_worker(roots: dict[str, Path]) -> None:
    data = benchmark("ADE20K")(str(roots["ADE20K"]), limit=2)
    again = pickle.loads(pickle.dumps(data))  # noqa: S301
    assert np.array_equal(again.read(1).labels, data.read(1).labels)


def test_the_fingerprint_follows_names_and_files(tmp_path: Path) -> None:
    voc(tmp_path)
    twenty, twenty_one = (benchmark(name)(str(tmp_path)) for name in ("VOC20", "VOC21"))
    before = twenty.fingerprint
    assert before != twenty_one.fingerprint
    path = twenty.label_path(1)
    path.unlink()
    grey(path, blocks([1, 2, 3], 5))
    assert twenty.fingerprint != before


MISSING = {
    "root": ("VOC21", ".", r"voc21: the folder .* is missing \(root or OVSEG_DATA\)"),
    "images": ("VOC21", "VOCdevkit/VOC2012/JPEGImages", r"VOC2012/JPEGImages is missing: it is in .*voc2012/VOCtr"),
    "list": ("VOC21", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", r"val.txt is missing: it is in VOCtrainval"),
    "label map": (
        "VOC21", "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", r"000033.png is missing: it is in VOCtrain"
    ),
    "image": (
        "VOC21", "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg", r"image .*33.jpg is missing: it is in VOCtrainval"
    ),
    "prepared labels": (
        "COCOStuff",
        "coco_stuff164k/annotations/val2017/000000000139_labelTrainIds.png",
        r"'ovseg data prepare coco_stuff' makes it from stuffthingmaps_trainval2017.zip, http://calvin",
    ),
    "prepared list": (
        "VOCC", "VOCdevkit/VOC2012/ImageSets/Segmentation/val_voc_c.txt", r"'ovseg data prepare voc_c' makes it from V"
    ),
    "context": (
        "Context59",
        "VOCdevkit/VOC2010/SegmentationClassContext/2008_000002.png",
        r"'ovseg data prepare context59' makes it from trainval_merged.json, https://codala.* or trainval.tar.gz, htt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_missing_files_are_named_with_their_source(case: str, roots: dict[str, Path], tmp_path: Path) -> None:
    name, path, message = MISSING[case]
    root = tmp_path / "data"
    shutil.copytree(roots[name], root)
    victim = root / path
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(DataError, match=message):
        benchmark(name)(str(root)).read(0)


def test_a_missing_root_is_an_error_that_names_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVSEG_DATA", raising=False)
    with pytest.raises(DataError, match=r"no root is given and OVSEG_DATA is not set; it needs ADEChallengeData2016"):
        benchmark("ADE20K")()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "there are no images"), ("a\na\n", "'a' more than once"), ("../secret\n", "no file below")],
)
def test_an_invalid_list_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        benchmark("VOC21")(str(tmp_path))


def test_class_names_of_the_releases() -> None:
    data = benchmark("VOC21")
    names = data.default_vocabulary().names
    assert data.vocabulary_for("mmseg") == data.default_vocabulary()
    theirs = data.vocabulary_for("clip_diy")
    assert dict(zip(names, theirs.names, strict=True))["tvmonitor"] == "tv/monitor"
    assert theirs.palette == data.default_vocabulary().palette
    assert "airplane" in benchmark("VOC20").vocabulary_for("ovdiff").names
    ade = benchmark("ADE20K").vocabulary_for("ovdiff")
    assert ade.names[benchmark("ADE20K").default_vocabulary().names.index("tank")] == "liquid tank"
    with pytest.raises(ConfigurationError, match=r"not of 'clip_dyi' \(did you mean 'clip_diy'\?\)"):
        data.vocabulary_for("clip_dyi")
    with pytest.raises(ConfigurationError, match="cityscapes has class names of mmseg, not of 'ovdiff'"):
        benchmark("Cityscapes").vocabulary_for("ovdiff")


def test_coco_object_has_the_names_of_clip_diys_and_group_vits_releases() -> None:
    """Both releases write out the 81 names, which are those of COCO's ``instances_val2017.json``."""
    written = (
        "background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
        "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, "
        "umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
        "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, "
        "sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, "
        "dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
        "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
    )
    for name, release in (
        ("COCOObject", "clip_diy"),
        ("COCOObject1K", "clip_diy"),
        ("COCOObjectTCL", "group_vit"),
    ):
        assert benchmark(name).vocabulary_for(release).names == tuple(written.split(", "))


def test_hidden_files_are_skipped(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["ADE20K"], tmp_path / "data")
    folder = tmp_path / "data" / "ade" / "ADEChallengeData2016" / "images" / "validation"
    (folder / "._ADE_val_00000001.jpg").write_bytes(b"a Mac's")
    (folder / "index.html").write_text("")
    assert len(benchmark("ADE20K")(str(tmp_path / "data")).ids) == 3
