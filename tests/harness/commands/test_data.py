"""``ovseg data``: what is there, what is wrong with it, and what has to be made, as a person sees it."""

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datamodules
from harness.commands import data as command
from harness.system.plugins import DATA, import_paths
from tests.datamodules.trees import TREES, blocks, coco, grey, voc, write_image
from tests.running import Outcome

NAMES = {getattr(datamodules, name).name: name for name in TREES}


@pytest.fixture(autouse=True)
def data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """All benchmarks and a data module of each other kind, whatever is installed here; small ones, all published."""
    points = {name: EntryPoint(name, f"datamodules:{found}", "ovseg.datamodules") for name, found in NAMES.items()}
    points["folder"] = EntryPoint("folder", "datamodules:Folder", "ovseg.datamodules")
    points["miniature"] = EntryPoint("miniature", "miniature.datamodule:Miniature", "ovseg.datamodules")
    points["broken"] = EntryPoint("broken", "nowhere:Nothing", "ovseg.datamodules")
    monkeypatch.setattr(command, "find_plugins", lambda group: points)
    monkeypatch.delenv("OVSEG_DATA", raising=False)
    for name in TREES:
        monkeypatch.setattr(getattr(datamodules, name), "num_images_published", 3)
    monkeypatch.setenv("COLUMNS", "100")


def test_every_benchmark_is_registered() -> None:
    assert import_paths(DATA).items() >= {name: f"datamodules.{found}" for name, found in NAMES.items()}.items()


def test_list_names_all_and_where_they_are(
    ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    voc(tmp_path)
    coco(tmp_path)
    outcome = ovseg("data", "list", "--root", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    rows = {cells[1].strip(): cells for line in outcome.out.splitlines() if len(cells := line.split("│")) == 7}
    assert rows.keys() >= {*NAMES, "folder", "miniature", "broken"}
    assert [cell.strip() for cell in rows["voc21"][2:6]] == [
        "21", "3", "VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012"
    ]  # fmt: skip
    assert [cell.strip() for cell in rows["ade20k"][2:6]] == ["150", "3", "ADEChallengeData2016.zip", "-"]
    assert [cell.strip() for cell in rows["miniature"][2:6]] == ["13", "200", "nothing", "built in"]
    assert "--data.root" in rows["folder"][4]
    assert "cannot be imported" in rows["broken"][4]
    assert rows["coco_object"][5].strip() == "coco_stuff164k (not prepared)"


@pytest.mark.parametrize("width", [40, 64, 80, 100])
def test_list_fits_a_narrow_terminal(
    width: int, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    voc(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = ovseg("data", "list", "--root", ".").out.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 60
    assert all(any(name in line for line in lines) for name in NAMES)
    assert any("VOCdevkit/VOC2012" in line for line in lines)
    assert any("VOCtrainval_11-May-2012.tar" in line for line in lines) == (width > 64)


@pytest.mark.parametrize("name", NAMES)
def test_list_of_one_says_what_it_needs_and_where_that_is_published(
    name: str, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = ovseg("data", "list", name)
    found = getattr(datamodules, NAMES[name])
    for source in (found.images_source, *found.label_sources):
        assert source.url.startswith("http")
        assert f" {source.url}\n" in outcome.out
    assert f"/{found.layout.images}/*{found.layout.image_suffix}\n" in outcome.out
    assert ("ovseg data prepare" in outcome.out) == bool(found.prepared_parts)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_prepared_passes_the_check(
    name: str, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TREES[NAMES[name]](tmp_path)
    found = getattr(datamodules, NAMES[name])
    # Of the three images, how many are in the lists that are prepared.
    if name in (listed := {"voc_c": 1, "voc_c_release": 1, "coco_object_1k": 2}):
        monkeypatch.setattr(found, "num_images_published", listed[name])
    outcome = ovseg("data", "prepare", name, "--root", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "needs no preparation" in outcome.out if not found.prepared_parts else ", 0 already there" in outcome.out
    outcome = ovseg("data", "check", name, "--root", tmp_path)
    assert (outcome.code, outcome.err) == (0, ""), outcome.out
    assert outcome.out.endswith(f"{found.find_folder(tmp_path)}: no problems\n")
    assert found(str(tmp_path)).fingerprint in outcome.out
    assert f"of {len(found.default_vocabulary())}" in outcome.out


def test_an_older_split_passes_and_is_named(
    ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # The trees have three images: the right number of the one split, and then of the other.
    for route, older, said in (
        ("Context59", {}, "3 (3 published) "),
        ("Context60", {3: "the older split"}, "3 (2 published; this is the older split)"),
    ):
        found = getattr(datamodules, route)
        monkeypatch.setattr(found, "num_images_published", 2 if older else 3)
        monkeypatch.setattr(found, "other_splits", older)
        root = tmp_path / route
        root.mkdir()
        TREES[route](root)
        assert ovseg("data", "prepare", found.name, "--root", root).code == 0
        outcome = ovseg("data", "check", found.name, "--root", root)
        assert (outcome.code, outcome.err) == (0, ""), outcome.out
        assert said in outcome.out
    monkeypatch.setattr(datamodules.Context60, "other_splits", {4: "the older split"})
    outcome = ovseg("data", "check", "context60", "--root", tmp_path / "Context60")
    assert outcome.code == 1
    assert "count: found 3 images, 2 are published" in outcome.out


def test_the_pixel_fingerprint_follows_pixels_and_not_their_compression(
    ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    def fingerprints() -> list[str]:
        lines = ovseg("data", "check", "voc21", "--root", tmp_path).out.splitlines()
        return [line.split("│")[2].strip() for line in lines if "fingerprint " in line]

    voc(tmp_path)
    files, pixels = fingerprints()
    path = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2008_000042.png"
    with Image.open(path) as file:
        labels = np.array(file)
    Image.fromarray(labels).save(path, compress_level=0)
    assert fingerprints()[0] != files
    assert fingerprints()[1] == pixels
    labels[0, 0] = 5
    Image.fromarray(labels).save(path, compress_level=0)
    assert fingerprints()[1] != pixels


FOLDER = Path("VOCdevkit") / "VOC2012"
MAP = FOLDER / "SegmentationClass" / "2008_000042.png"
JPEG = FOLDER / "JPEGImages" / "2007_000061.jpg"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a corrupt label map": (
        lambda root: (root / MAP).write_bytes((root / MAP).read_bytes()[:60]), "unreadable: .*000042.png is damaged"
    ),
    "a corrupt image": (
        lambda root: (root / JPEG).write_bytes((root / JPEG).read_bytes()[:300]), "unreadable: .*000061.jpg is damaged"
    ),
    "a label map in colour": (lambda root: write_image(root / MAP, 1), "unreadable: .*000042.png is a RGB image"),
    "a label outside": (
        lambda root: grey(root / MAP, blocks([0, 21, 30], 1)),
        "labels: .*2008_000042.png holds value 21, but only 0-20, 255 have a meaning",
    ),
    "another size": (
        lambda root: write_image(root / JPEG, 1, 50, 70), "size: .*000061.png has 80x60 pixels, its image 70x50"
    ),
    "a missing label map": (lambda root: (root / MAP).unlink(), "missing: .*000042.png is missing: it is in VOCtrain"),
    "a missing image": (lambda root: (root / JPEG).unlink(), "missing: .*000061.jpg is missing: it is in VOCtrain"),
    "another number": (
        lambda root: (root / FOLDER / "ImageSets/Segmentation/val.txt").write_text("2008_000042\n"),
        "count: found 1 images, 3 are published",
    ),
    "no list": (
        lambda root: (root / FOLDER / "ImageSets/Segmentation/val.txt").unlink(), "missing: the list .*val.txt is miss"
    ),
    "no label maps": (
        lambda root: (root / FOLDER / "SegmentationClass").rename(root / "x"),
        "missing: the folder .*SegmentationClass is missing: it is in VOCtrainval_11-May-2012.tar, http",
    ),
    "no images": (
        lambda root: (root / FOLDER / "JPEGImages").rename(root / "x"), "missing: .*JPEGImages is missing: it is in VOC"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_wrong_is_found_and_the_exit_code_is_1(
    case: str, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    damage, message = DAMAGE[case]
    voc(tmp_path)
    damage(tmp_path)
    outcome = ovseg("data", "check", "voc21", "--root", tmp_path)
    assert (outcome.code, outcome.err) == (1, "")
    assert [line for line in outcome.out.splitlines() if re.match(message, line)], outcome.out
    assert outcome.out.splitlines()[-1].endswith(": 1 problem")


def test_a_label_outside_is_given_as_it_stands_in_the_file(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    TREES["ADE20K"](tmp_path)
    path = tmp_path / "ade" / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    grey(path, blocks([0, 1, 151], 1))
    outcome = ovseg("data", "check", "ade20k", "--root", tmp_path)
    assert "holds value 151, but only 0-150, 255 have a meaning" in outcome.out


def test_many_problems_of_a_kind_are_counted(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / FOLDER / "ImageSets/Segmentation/val.txt").write_text("".join(f"no_{i}\n" for i in range(25)))
    outcome = ovseg("data", "check", "voc21", "--root", tmp_path)
    lines = [line for line in outcome.out.splitlines() if line.startswith("missing: ")]
    assert len(lines) == 11
    assert lines[-1] == "missing: 15 more"
    assert outcome.out.splitlines()[-1].endswith(": 26 problems")


def test_preparing_twice_and_with_a_damaged_original(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    coco(tmp_path)
    original = tmp_path / "coco_stuff164k" / "annotations" / "val2017" / "000000000285.png"
    whole = original.read_bytes()
    original.write_bytes(b"")
    outcome = ovseg("data", "prepare", "coco27", "--root", tmp_path)
    assert outcome.code == 1
    assert "error: the label map" in outcome.out
    assert outcome.out.endswith("2 files written, 0 already there, 1 failed\n")
    original.write_bytes(whole)
    assert ovseg("data", "prepare", "coco27", "--root", tmp_path).out.endswith("1 files written, 2 already there\n")
    outcome = ovseg("data", "prepare", "coco27", "--root", tmp_path)
    assert outcome.code == 0
    assert outcome.out.endswith("0 files written, 3 already there\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check"], ["which benchmark?", "ovseg data check NAME"]),
        (["chekc"], ["action", "chekc"]),
        (["check", "voc22", "--root", "."], ["'voc22' is none of", "did you mean 'voc21'?"]),
        (["check", "folder", "--root", "."], ["'folder' is no published benchmark"]),
        (["check", "broken", "--root", "."], ["'broken' cannot be imported", "nowhere"]),
        (["check", "voc21"], ["--root", "OVSEG_DATA"]),
        (["check", "voc21", "--root", ".", "--workers", "0"], ["--workers must be at least 1"]),
        (["check", "voc21", "--rot", "."], ["--rot", "did you mean '--root'?"]),
        (["prepare", "coco_stuff", "--root", "."], ["coco_stuff164k/images/val2017 is missing", "val2017.zip, http"]),
        (["prepare", "coco_stuff", "--root", "nowhere"], ["nowhere is missing"]),
        (["list", "--root", "nowhere"], ["nowhere is missing"]),
        (["list", "voc22"], ["did you mean 'voc21'?"]),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    named: list[str],
    ovseg: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ovseg("data", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    for each in named:
        assert each in outcome.err, outcome.err
