"""The small BLIP loads in the library's classes, names what is there, and is trained by one command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, BertTokenizer, BlipForConditionalGeneration, BlipProcessor, Dinov2Model

from miniature import train_blip
from miniature.crops import resized
from miniature.train_blip import (
    FOLDER,
    PROMPT,
    build_model,
    build_processor,
    caption_scores,
    classes_in_caption,
    init_from_dino,
    main,
    replace_opening,
    targets,
    train,
)
from miniature.training import WEIGHTS, to_tensor
from miniature.world import CLASSES, scene


def test_folder_loads_as_any_blip_does() -> None:
    model = BlipForConditionalGeneration.from_pretrained(FOLDER)
    processor = AutoProcessor.from_pretrained(FOLDER)
    assert isinstance(processor, BlipProcessor)
    assert isinstance(processor.tokenizer, BertTokenizer)
    inputs = processor(images=scene("val", 0).image, text=PROMPT, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert model.dtype == torch.float16
    assert model.config.text_config.bos_token_id == processor.tokenizer.bos_token_id
    files = [file for file in FOLDER.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}


def test_captions_name_what_is_there() -> None:
    # Floors well below the card's numbers, which are over the whole split.
    scores = caption_scores(count=20)
    assert scores["recall things"] > 60
    assert scores["precision things"] > 60
    assert scores["precision"] > 70


def test_a_class_is_named_in_singular_and_plural_and_background_is_none() -> None:
    assert classes_in_caption("a picture of two boats, a fish and the background sky") == {"boat", "fish", "sky"}
    assert classes_in_caption("a catfish on the background") == set()


def test_captions_open_with_blip_s_prompt_and_lose_their_own() -> None:
    for own in ("a photo of two cats", "two cats", "art of two cats", "a good photo of two cats"):
        assert replace_opening(own) == "a picture of two cats"


def test_every_word_of_the_world_is_one_token() -> None:
    tokens = build_processor().tokenizer
    captions = [scene("train", index).caption for index in range(100)]
    for text in [*captions, *CLASSES]:
        assert tokens.tokenize(text) == text.replace(",", " ,").split()
    assert tokens.unk_token not in tokens.tokenize("zebra")


def test_what_is_learnt_is_the_caption_and_its_end_not_the_prompt() -> None:
    tokens = build_processor().tokenizer
    ids, mask, said = targets(tokens, ["a picture of a cat", "a picture of two red boats"])
    assert ids[0, 0] == tokens.bos_token_id
    learnt = [tokens.decode(row[row >= 0]) for row in said]
    assert learnt == ["a cat [SEP]", "two red boats [SEP]"]
    assert (said[mask == 0] == -100).all()


def test_the_image_tower_starts_as_the_small_dino() -> None:
    model = build_model(build_processor().tokenizer).eval()
    dino = Dinov2Model.from_pretrained(WEIGHTS / "dino", dtype=torch.float32).eval()
    init_from_dino(model.vision_model, dino)
    pixels = to_tensor([resized(scene("train", 1).image, 64, 64)])
    with torch.no_grad():
        torch.testing.assert_close(
            model.vision_model(pixels).last_hidden_state, dino(pixels).last_hidden_state, atol=1e-4, rtol=1e-4
        )


def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for until in steps:
            # The rate's schedule looks to the end, so that the end must be the same for both.
            monkeypatch.setattr(train_blip, "rate", lambda step, _, peak: peak / (1 + step))
            train(until, 2, 4, folder=tmp_path / name, work=tmp_path / f"{name} work")
        return BlipForConditionalGeneration.from_pretrained(tmp_path / name).state_dict()

    at_once, halted = weights("one", 3), weights("two", 2, 3)
    assert all(torch.equal(value, halted[name]) for name, value in at_once.items())
    assert not torch.equal(
        at_once["text_decoder.cls.predictions.bias"], weights("three", 2)["text_decoder.cls.predictions.bias"]
    )


def test_a_missing_backbone_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train dino"):
        train(dino=tmp_path, folder=tmp_path)


def test_measure_prints_the_card_s_numbers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(train_blip, "caption_scores", lambda folder: {"recall": 73.24})
    main(["--measure"])
    assert capsys.readouterr().out.split() == ["recall", "73.2"]
