"""A folder of the user's images: files of labelling tools are read, and errors name the file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import Folder
from datamodules.folder import read_classes
from harness import ConfigurationError, DataError, Protocol
from tests.running import SQUARES, Outcome, images

LABELS = np.array([[0, 1, 2, 2], [0, 1, 255, 2], [0, 0, 0, 1]], dtype=np.uint8)
MAPS = {
    "grey": lambda: Image.fromarray(LABELS),
    "palette": lambda: _palette(LABELS),
    "16 bits": lambda: Image.fromarray(LABELS.astype(np.uint16)),
    "palette of 16 colours": lambda: _palette(np.where(LABELS == 255, 3, LABELS).astype(np.uint8)),
}


def _palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels).convert("P")
    image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    return image


def photograph(path: Path, height: int = 3, width: int = 4, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photographs with masks, and one without."""
    for name in ("b.jpg", "a.png", "c.JPEG"):
        photograph(tmp_path / "data" / "images" / name)
    masks = tmp_path / "data" / "masks"
    masks.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(LABELS).save(masks / name)
    (tmp_path / "data" / "classes.txt").write_text("background\ncorgi\npark bench\n")
    return tmp_path / "data"


def test_images_and_masks_in_subfolders(root: Path) -> None:
    data = Folder(str(root))
    assert data.ids == ["a.png", "b.jpg", "c.JPEG"]
    assert data.vocabulary.names == ("background", "corgi", "park bench")
    assert data.vocabulary.background
    for index in (0, 1):
        labeled = data.read(index)
        assert labeled.image.shape == (3, 4, 3)
        assert np.array_equal(labeled.labels, LABELS)
    assert data.read(2).labels is None


def test_masks_beside_photographs(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    photograph(tmp_path / "b.webp")
    photograph(tmp_path / "alone.png")
    Image.fromarray(LABELS).save(tmp_path / "a.png")
    (tmp_path / "notes.md").write_text("not an image")
    (tmp_path / "names.txt").write_text("corgi\nbench\nsky")
    data = Folder(str(tmp_path), class_list="names.txt")
    assert data.ids == ["a.jpg", "alone.png", "b.webp"]
    assert np.array_equal(data.read(0).labels, LABELS)
    assert data.read(1).labels is None
    assert data.read(2).labels is None
    assert not data.vocabulary.background


@pytest.mark.parametrize("kind", MAPS)
def test_label_values_are_read_from_every_kind_of_png(kind: str, root: Path) -> None:
    MAPS[kind]().save(root / "masks" / "a.png", **({"bits": 4} if "16 colours" in kind else {}))
    expected = np.where(LABELS == 255, 3, LABELS) if "16 colours" in kind else LABELS
    labels = Folder(str(root)).read(0).labels
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected)


def test_a_mask_of_one_bit(root: Path) -> None:
    Image.fromarray(LABELS == 1).save(root / "masks" / "a.png")
    assert np.array_equal(Folder(str(root)).read(0).labels, LABELS == 1)


@pytest.mark.parametrize(
    ("text", "names", "background"),
    [
        ("corgi\nbench\n", ("corgi", "bench"), False),
        ("\ufeffcorgi\r\n bench \r\n\r\n\r\n", ("corgi", "bench"), False),
        ("_background_\ncorgi", ("background", "corgi"), True),
        ("__ignore__\n_background_\ncorgi\n", ("background", "corgi"), True),
        ("__ignore__\ncorgi\n", ("corgi",), False),
        ("hübscher Hund\n犬", ("hübscher Hund", "犬"), False),
    ],
)
def test_lists_of_names_of_labelling_tools(text: str, names: tuple[str, ...], background: bool, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    vocabulary = read_classes(tmp_path / "classes.txt")
    assert (vocabulary.names, vocabulary.background) == (names, background)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ConfigurationError, "at least one class"),
        (b"a\n\nb\n", ConfigurationError, "no empty class name"),
        (b"a\nb\na\n", ConfigurationError, "'a' more than once"),
        (b"\xff\xfe\x00", DataError, "classes.txt cannot be read"),
        (None, DataError, "classes.txt is missing: one name per line"),
    ],
)
def test_an_invalid_list_of_names_is_an_error(
    content: bytes | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        read_classes(tmp_path / "classes.txt")


def test_missing_files_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .*nowhere is missing \(--data\.root\)"):
        Folder(str(tmp_path / "nowhere"))
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    with pytest.raises(DataError, match=r"no images .* in .*images"):
        Folder(str(root))


def test_one_mask_cannot_belong_to_two_images(root: Path) -> None:
    photograph(root / "images" / "b.png")
    with pytest.raises(DataError, match=r"b\.jpg and b\.png have the same stem"):
        Folder(str(root))


def test_exif_orientation_is_applied(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    photograph(root / "images" / "a.png", 4, 3, exif=exif)
    assert Folder(str(root)).read(0).image.shape == (3, 4, 3)


def test_grey_and_transparent_images_become_rgb(root: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = root / "images" / ("a.tif" if mode == "CMYK" else "a.png")
        for old in (root / "images").glob("a.*"):
            old.unlink()
        Image.new(mode, (4, 3)).save(path)
        image = Folder(str(root)).read(0).image
        assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "not an image": (lambda root: (root / "images" / "a.png").write_text("x"), "a.png is damaged or not an image"),
    "half an image": (
        lambda root: (root / "images" / "a.png").write_bytes(
            photograph(root / "images" / "a.png", 80, 80).read_bytes()[:5000]
        ),
        "a.png is damaged or not an image",
    ),
    "an empty mask": (lambda root: (root / "masks" / "a.png").write_text(""), "masks/a.png is damaged or not an image"),
    "a mask in colour": (lambda root: photograph(root / "masks" / "a.png"), "masks/a.png is a RGB image, not an"),
    "labels over 255": (
        lambda root: Image.fromarray((LABELS == 2) * np.uint16(300)).save(root / "masks" / "a.png"),
        "masks/a.png holds label 300, but labels end at 255",
    ),
    "a mask of another size": (
        lambda root: Image.fromarray(LABELS.T.copy()).save(root / "masks" / "a.png"),
        "'a.png': the label map is 3x4 pixels, its image 4x3",
    ),
    "a label outside": (
        lambda root: Image.fromarray(LABELS + (LABELS == 2) * np.uint8(7)).save(root / "masks" / "a.png"),
        "'a.png': the label map holds label 9, but the vocabulary has 3 classes",
    ),
    "a mask that is missing": (lambda root: (root / "masks" / "a.png").unlink(), "'a.png' has no label map"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_file_is_one_sentence_that_names_it(
    case: str, root: Path, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    damage, message = WRONG[case]
    (root / "images" / "c.JPEG").unlink()
    damage(root)
    arguments = [
        "evaluate",
        "--config",
        SQUARES,
        "--data",
        "folder",
        "--data.root",
        root,
        "--run_dir",
        tmp_path / "run",
    ]
    outcome = ovseg(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    if "missing" not in case:
        outcome = ovseg(*arguments, "--data.on_error", "skip")
        assert [record.skipped is None for record in images(outcome.run_dir)] == [False, True]


def test_the_fingerprint_follows_the_files(root: Path) -> None:
    before = Folder(str(root)).fingerprint
    assert Folder(str(root)).fingerprint == before
    photograph(root / "images" / "c.JPEG", 30, 40)
    changed = Folder(str(root)).fingerprint
    (root / "masks" / "a.png").unlink()
    assert len({before, changed, Folder(str(root)).fingerprint}) == 3


def test_file_names_need_not_be_unicode(root: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    odd = os.fsencode(root / "images") + b"/\xff.png"
    os.rename(root / "images" / "a.png", odd)
    os.rename(root / "masks" / "a.png", os.fsencode(root / "masks") + b"/\xff.png")
    (root / "images" / "c.JPEG").unlink()
    arguments = [
        "evaluate",
        "--config",
        SQUARES,
        "--data",
        "folder",
        "--data.root",
        root,
        "--run_dir",
        tmp_path / "run",
    ]
    assert [record.id for record in images(ovseg(*arguments).run_dir)] == ["b.jpg", "\udcff.png"]


def test_scoring_needs_the_protocol_only_for_sizes(root: Path) -> None:
    data = Folder(str(root), limit=2)
    data.plan(Protocol(name="x", size=(100, 9)), range(2))
    samples = [sample for batch in data.predict_dataloader() for sample in batch]
    assert [tuple(sample.image.shape) for sample in samples] == [(3, 9, 12)] * 2
    assert [sample.size for sample in samples] == [(3, 4)] * 2
