"""Captions: what the library itself would say, one image at a time, kept by content."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    Dinov2Config,
    Dinov2Model,
    OPTConfig,
    T5Config,
)

from harness import ConfigurationError, ModelError
from harness.artifacts.store import ArtifactStore
from methods.backbones.captioner import Captioner, HubCaptioner, stored_caption
from miniature import tokenizer as clip_words
from miniature.train_blip import SIDE, build_model, build_processor
from miniature.training import MEAN, STD


def noise_image(seed: int = 0, height: int = 40, width: int = 56) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def save_blip(folder: Path) -> None:
    """Miniature's BLIP with random weights: it says nonsense, but always the same."""
    torch.manual_seed(0)
    processor = build_processor()
    build_model(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_blip2(folder: Path, text: str) -> None:
    """A BLIP-2 of a few layers with random weights, over OPT (a decoder alone) or T5 (with an encoder)."""
    torch.manual_seed(0)
    words = clip_words.load()
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=list(MEAN), image_std=list(STD)), words, 3
    )
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    shape: dict[str, Any] = {
        "opt": lambda: OPTConfig(
            vocab_size=len(words), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=64, **ends,
        ),
        "t5": lambda: T5Config(
            vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
            decoder_start_token_id=words.pad_token_id, **ends,
        ),
    }[text]()  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": SIDE, "patch_size": 16},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": 8},
        text_config=shape.to_dict(),
        num_query_tokens=3,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


KINDS = {"blip": save_blip, "opt": lambda folder: save_blip2(folder, "opt"), "t5": lambda f: save_blip2(f, "t5")}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](root)
    return root


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    save_blip(root)
    return root


def loaded(folder: Path, **settings: Any) -> HubCaptioner:
    captioner = HubCaptioner(str(folder), **settings)
    captioner.load()
    return captioner


@torch.no_grad()
def test_a_caption_is_what_the_library_generates_behind_the_prompt(folder: Path) -> None:
    captioner = loaded(folder, prompt="a photo of ", min_length=12, max_length=20)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=noise_image(), text="a photo of", return_tensors="pt")
    prompt = processor.tokenizer("a photo of").input_ids
    # LAVIS counts the prompt's tokens, of which BLIP's decoder sees all but the last; T5 reads them in its encoder.
    known = {"blip": len(prompt) - 1, "opt": len(prompt), "t5": 0}[
        {"blip": "blip"}.get(model.config.model_type, getattr(model.config.text_config, "model_type", ""))
    ]
    ids = model.generate(**inputs, num_beams=3, min_new_tokens=12 - known, max_new_tokens=20 - known)
    text = processor.decode(ids[0], skip_special_tokens=True)
    said = captioner.caption(noise_image())
    assert said
    assert " ".join(text.split()).removeprefix("a photo of").strip() == said


@torch.no_grad()
def test_blip_counts_tokens_as_lavis_does(blip_folder: Path) -> None:
    captioner = loaded(blip_folder)
    model = BlipForConditionalGeneration.from_pretrained(blip_folder)
    processor = AutoProcessor.from_pretrained(blip_folder)
    inputs = processor(images=noise_image(), text="a picture of ", return_tensors="pt")
    ids = model.generate(**inputs, num_beams=3, min_length=10, max_length=30)
    text = processor.decode(ids[0], skip_special_tokens=True)
    assert text.startswith("a picture of ")
    assert captioner.caption(noise_image()) == text.removeprefix("a picture of ")
    assert len(ids[0]) <= 30


def test_a_caption_depends_on_its_image_alone(folder: Path) -> None:
    captioner = loaded(folder)
    alone = captioner.caption(noise_image(1))
    for other in (2, 3):
        captioner.caption(noise_image(other))
    assert captioner.caption(noise_image(1)) == alone
    assert loaded(folder).caption(noise_image(1)) == alone


@torch.no_grad()
def test_lengths_bound_the_caption(blip_folder: Path) -> None:
    def words(end: float, **settings: int) -> int:
        """How many tokens a BLIP says that would rather (or not) say its end at once."""
        captioner = loaded(blip_folder, **settings)
        tokens = captioner._processor.tokenizer
        captioner.model.text_decoder.cls.predictions.bias[tokens.sep_token_id] = end
        return len(tokens(captioner.caption(noise_image()), add_special_tokens=False).input_ids)

    # The prompt has four tokens with the first one; the end that closes a caption counts as one of the new ones.
    assert words(100, min_length=10) == 6
    assert words(100, min_length=0) == 0
    assert words(-100, max_length=12) == 8


def test_settings_tell_what_determines_a_caption(blip_folder: Path, tmp_path: Path) -> None:
    plain = loaded(blip_folder).identity()
    json.dumps(plain, allow_nan=False)
    assert loaded(blip_folder).identity() == plain
    for change in ({"prompt": "art of"}, {"num_beams": 1}, {"min_length": 5}, {"max_length": 20}):
        assert loaded(blip_folder, **change).identity() != plain, change
    # Spaces at the prompt's end are not read, and a folder's name says nothing.
    assert loaded(blip_folder, prompt="a picture of").identity() == plain
    save_blip(tmp_path)
    assert loaded(tmp_path).identity() == plain
    processor = build_processor()
    processor.image_processor.size = {"height": 32, "width": 32}
    processor.save_pretrained(tmp_path)
    assert loaded(tmp_path).identity() != plain


def test_a_missing_captioner_is_one_sentence(tmp_path: Path) -> None:
    for name in ("./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match="there is no captioner folder"):
            HubCaptioner(name).load()
    with pytest.raises(ModelError, match="hf download Salesforce/blip-image-captioning-base"):
        HubCaptioner().load()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="neither a complete folder"):
        HubCaptioner(str(tmp_path)).load()


def test_another_kind_of_model_is_refused(blip_folder: Path) -> None:
    model = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ModelError, match="neither BLIP nor BLIP-2"):
        HubCaptioner().adopt(model, AutoProcessor.from_pretrained(blip_folder))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_beams": 0}, "beams"),
        ({"min_length": 9, "max_length": 8}, "min_length"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        HubCaptioner(**settings)


def test_a_prompt_must_leave_room(blip_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_length 4 leaves none"):
        loaded(blip_folder, min_length=0, max_length=4)


class Counting(Captioner):
    """Says how often it was asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.asked = 0
        self.own = settings

    def caption(self, image: torch.Tensor) -> str:
        self.asked += 1
        return f"ein Bär – {int(image.sum())}"


def test_a_caption_is_made_once_for_an_image_and_a_captioner(tmp_path: Path) -> None:
    captioner, store = Counting(), ArtifactStore(tmp_path)
    first = stored_caption(captioner, noise_image(1), store, "one")
    assert first == f"ein Bär – {int(noise_image(1).sum())}"
    # The same pixels under another name, and another process's view of the store.
    assert stored_caption(captioner, noise_image(1), ArtifactStore(tmp_path), "../two") == first
    assert captioner.asked == 1
    assert stored_caption(captioner, noise_image(2), store, "one") != first
    heavier = Counting()
    heavier.register_buffer("weight", torch.ones(1))
    stored_caption(heavier, noise_image(1), store, "one")
    assert heavier.asked == 1
    # The same bytes as an image of another shape.
    stored_caption(captioner, noise_image(1).reshape(3, 56, 40), store, "one")
    assert captioner.asked == 3
    other = Counting(num_beams=1)
    stored_caption(other, noise_image(1), store, "one")
    assert other.asked == 1


def test_a_damaged_caption_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captioner, store = Counting(), ArtifactStore(tmp_path)
    first = stored_caption(captioner, noise_image(1), store, "one")
    (path,) = tmp_path.rglob("tensors.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert stored_caption(captioner, noise_image(1), ArtifactStore(tmp_path), "one") == first
    assert captioner.asked == 2
    assert "caption of one" in caplog.text
    assert stored_caption(captioner, noise_image(1), store, "one") == first
    assert captioner.asked == 2


def test_an_empty_caption_is_kept_like_any_other(tmp_path: Path) -> None:
    class Silent(Counting):
        def caption(self, image: torch.Tensor) -> str:
            super().caption(image)
            return ""

    captioner, store = Silent(), ArtifactStore(tmp_path)
    assert [stored_caption(captioner, noise_image(), store, "x") for _ in range(2)] == ["", ""]
    assert captioner.asked == 1
