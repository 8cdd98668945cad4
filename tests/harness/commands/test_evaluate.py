"""--seeds: accepted values, and the spread of scores."""

import pytest

from harness import ConfigurationError
from harness.commands.evaluate import parse_seeds, summarize_seeds


def test_seeds_are_different_whole_numbers() -> None:
    assert parse_seeds("0,1,2") == parse_seeds("[0, 1, 2]") == [0, 1, 2]
    for wrong in ("", "1,1", "a", "1.5"):
        with pytest.raises(ConfigurationError, match="--seeds"):
            parse_seeds(wrong)


def test_spread_is_mean_and_sample_deviation() -> None:
    scores = {
        seed: {"miou": value, "pixel_accuracy": 50.0, "mean_accuracy": None} for seed, value in enumerate((1, 2, 6))
    }
    summary = summarize_seeds(scores)
    assert summary["seeds"] == [0, 1, 2]
    assert summary["miou"] == {"values": [1, 2, 6], "mean": 3, "deviation": pytest.approx(7**0.5)}
    assert summary["pixel_accuracy"]["deviation"] == 0
    assert summary["mean_accuracy"]["mean"] is None
    assert summarize_seeds({0: scores[0]})["miou"]["deviation"] is None
