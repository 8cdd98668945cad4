"""The small Stable Diffusion loads in the library's classes, obeys seed and guidance, and looks where it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from miniature.generation import checkpoint, model
from miniature.generation.attention import WordMaps, record_attention, word_weights
from miniature.generation.captioned_images import (
    NAMED_COVER,
    SIDE,
    captioned_images,
    classes_in_caption,
    training_image,
)
from miniature.measure_diffusion import attention_overlap, generate_images
from miniature.train_diffusion import velocity_loss
from miniature.train_vae import SCALING, build, fold_statistics, signal_to_noise, to_signed
from miniature.world import STUFF, THINGS, tags_of

STEPS = 6


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return model.load()


def test_folder_loads_as_any_stable_diffusion_does() -> None:
    plain = StableDiffusionPipeline.from_pretrained(model.FOLDER)
    assert isinstance(plain.vae, AutoencoderKL)
    assert isinstance(plain.unet, UNet2DConditionModel)
    assert isinstance(plain.text_encoder, CLIPTextModel)
    # One dtype throughout, or the first matrix product fails.
    assert {part.dtype for part in (plain.vae, plain.unet, plain.text_encoder)} == {torch.float32}
    assert plain.vae.config.scaling_factor == SCALING


def test_weights_are_small_and_half_precision() -> None:
    files = [file for file in model.FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 16_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}


def test_image_depends_on_its_seed_alone(pipeline: StableDiffusionPipeline) -> None:
    both, _ = generate_images(pipeline, "boat", (5, 6), steps=STEPS)
    again, _ = generate_images(pipeline, "boat", (5,), steps=STEPS)
    assert np.abs(both[0].astype(int) - again[0]).max() <= 2  # the batch's size changes rounding
    assert np.abs(both[0].astype(int) - both[1]).mean() > 5


def test_guidance_and_words_change_the_image(pipeline: StableDiffusionPipeline) -> None:
    weak, strong = (generate_images(pipeline, "cat", (1,), STEPS, guidance)[0].astype(int) for guidance in (1.5, 6.0))
    other = generate_images(pipeline, "house", (1,), STEPS, 6.0)[0].astype(int)
    assert np.abs(weak - strong).mean() > 3
    assert np.abs(other - strong).mean() > 3


def test_attention_of_a_word_falls_on_its_thing(pipeline: StableDiffusionPipeline) -> None:
    overlap, peak, full = attention_overlap(pipeline, ("boat", "sun", "mushroom", "house"), num_scenes=6)
    assert overlap > 0.37
    assert overlap > 1.8 * full
    assert peak > 0.7


def test_recording_attention_changes_nothing(pipeline: StableDiffusionPipeline) -> None:
    texts, before = ["a photo of a car."] * 2, pipeline.unet.attn_processors
    context = pipeline.text_encoder(model.token_ids(pipeline.tokenizer, texts))[0].detach()
    noise = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    maps = WordMaps(word_weights(pipeline.tokenizer, texts, ["car"] * 2), (16, 24))
    with torch.no_grad():
        plain = pipeline.unet(noise, 300, context).sample
        with record_attention(pipeline.unet, maps):
            watched = pipeline.unet(noise, 300, context).sample
    torch.testing.assert_close(watched, plain, atol=1e-4, rtol=1e-4)
    assert maps.mean().shape == (2, 16, 24)
    assert maps.count == 7  # two down, one in the middle, four up
    assert pipeline.unet.attn_processors == before


def test_word_that_is_not_in_the_text_is_an_error(pipeline: StableDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="'cat'"):
        word_weights(pipeline.tokenizer, ["a photo of a car."], ["cat"])


def test_autoencoder_reconstructs_images(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    images = captioned_images(24, tmp_path, start=10_000_000).images
    assert signal_to_noise(pipeline.vae, images) > 26
    with torch.no_grad():
        latents = pipeline.vae.encode(to_signed(images)).latent_dist.mean * SCALING
    assert latents.shape == (24, 4, 16, 16)
    assert abs(float(latents.std()) - 1) < 0.2


def test_folded_statistics_change_no_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, images = build().eval(), captioned_images(24, tmp_path, start=10_000_000).images
    before = signal_to_noise(vae, images)
    fold_statistics(vae, images)
    assert signal_to_noise(vae, images) == pytest.approx(before, abs=1e-3)
    with torch.no_grad():
        latents = vae.encode(to_signed(images)).latent_dist.mean * SCALING
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_captions_are_true_and_name_every_class(tmp_path: Path) -> None:
    seen = set[str]()
    for index in range(120):
        _, labels, caption = training_image(index)
        classes = classes_in_caption(caption)
        assert classes <= set(tags_of(labels, NAMED_COVER / 4)), caption
        seen |= classes
    assert seen >= set(THINGS) | set(STUFF)
    pages = captioned_images(6, tmp_path)
    assert pages.images.shape == (6, SIDE, SIDE, 3)
    np.testing.assert_array_equal(captioned_images(6, tmp_path).images, pages.images)  # from the disk
    np.testing.assert_array_equal(training_image(3)[0], pages.images[3])


def test_velocity_loss_is_zero_for_the_true_velocity() -> None:
    clean, noise, kept = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0.9, 0.5, 0.01])
    times = torch.tensor([100, 400, 900])
    scheduler = model.build_scheduler()
    kept = scheduler.alphas_cumprod[times]
    truth = kept.sqrt()[:, None, None, None] * noise - (1 - kept).sqrt()[:, None, None, None] * clean
    assert float(velocity_loss(truth, clean, noise, kept)) == pytest.approx(0, abs=1e-10)
    assert float(velocity_loss(truth + 1, clean, noise, kept)) == pytest.approx(1, abs=1e-5)


def test_training_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    def run(steps: int, network: nn.Linear, adam: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            adam.zero_grad()
            network(torch.ones(2, 3)).square().sum().backward()
            adam.step()

    def fresh() -> tuple[nn.Linear, torch.optim.Optimizer, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        average = {key: value.clone() for key, value in network.state_dict().items()}
        return network, torch.optim.AdamW(network.parameters(), 0.1), average

    straight, adam, _ = fresh()
    run(6, straight, adam)
    first, adam, average = fresh()
    run(4, first, adam)
    file = tmp_path / "state.safetensors"
    checkpoint.save(file, 4, {"net": first}, {"net": average}, adam)
    second, adam, average = fresh()
    assert checkpoint.load(file, {"net": second}, {"net": average}, adam) == 4
    run(2, second, adam)
    torch.testing.assert_close(second.weight, straight.weight)
    assert checkpoint.load(tmp_path / "none", {"net": second}, {"net": average}, adam) == 0
