"""Images of results: label values survive, colours are those of the legend."""

from pathlib import Path

import numpy as np
from PIL import Image

from harness import Vocabulary
from harness.engine.overlay import IGNORED, colourise, save_comparison, save_indexed

VOCABULARY = Vocabulary(("background", "corgi", "a bench with a rather long name"), background=True)


def test_an_indexed_png_holds_the_label_values_and_shows_the_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 2, 1]], dtype=np.uint8)
    save_indexed(tmp_path / "new" / "a.png", labels, VOCABULARY)
    with Image.open(tmp_path / "new" / "a.png") as file:
        assert file.mode == "P"
        assert np.array_equal(np.array(file), labels)
        shown = np.array(file.convert("RGB"))
    assert tuple(shown[0, 1]) == VOCABULARY.palette[1]
    assert tuple(shown[1, 0]) == IGNORED


def test_the_background_stays_as_it_is_and_classes_are_tinted() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    blended = colourise(image, np.array([[0, 1], [2, 0]], dtype=np.uint8), VOCABULARY)
    assert (blended[0, 0] == 100).all()
    assert (blended[1, 1] == 100).all()
    assert blended[0, 1, 0] > 110 > 100 > blended[0, 1, 1]
    plain = Vocabulary(("a", "b", "c"))
    assert (colourise(image, np.zeros((2, 2), np.uint8), plain) != 100).any()


def test_a_comparison_shows_all_maps_with_a_legend_of_what_occurs(tmp_path: Path) -> None:
    image = np.full((60, 90, 3), 200, dtype=np.uint8)
    truth, predicted = np.zeros((60, 90), np.uint8), np.ones((30, 45), np.uint8)
    truth[20:] = 255
    save_comparison(tmp_path / "a.png", image, {"ground truth": truth, "prediction": predicted}, VOCABULARY)
    with Image.open(tmp_path / "a.png") as file:
        pixels = np.array(file.convert("RGB"))
    scale = round(384 / 90)
    assert pixels.shape[1] >= 3 * 90 * scale
    assert pixels.shape[0] > 60 * scale
    legend = pixels[-60:].reshape(-1, 3)
    assert (legend == VOCABULARY.palette[1]).all(1).any()
    assert not (legend == VOCABULARY.palette[2]).all(1).any()
