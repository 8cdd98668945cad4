"""Generation and features on Miniature's Stable Diffusion, and on the shapes of SDXL and LCM with random weights."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from harness import ConfigurationError, ModelError
from methods.backbones import DiffusersTextToImage, DiffusionFeatures
from methods.backbones.diffusion_pipeline import grid_of, noisy_latents
from methods.support import Attribution
from miniature.training import WEIGHTS

PROMPTS = ["a photo of a cat", "a photo of a boat", "a red house on the grass"]
LAYERS = ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.1")


def generator(pipeline: StableDiffusionPipeline, **settings: object) -> DiffusersTextToImage:
    made = DiffusersTextToImage("tiny", **({"steps": 3, "guidance": 3.0} | settings))
    made.adopt(pipeline)
    return made


def extractor(pipeline: StableDiffusionPipeline, **settings: object) -> DiffusionFeatures:
    made = DiffusionFeatures("tiny", **({"layers": LAYERS} | settings))
    made.adopt(pipeline)
    return made


def random_images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8)


def small_unet(**settings: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        **settings,
    )


@pytest.fixture(scope="module")
def sdxl(sd_pipeline: StableDiffusionPipeline) -> StableDiffusionXLPipeline:
    """Two tokenizers and text encoders, a pooled text and the image's size; two transformer blocks a layer."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(sd_pipeline.tokenizer),
        hidden_size=24,
        intermediate_size=32,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=sd_pipeline.tokenizer.model_max_length,
        eos_token_id=sd_pipeline.tokenizer.eos_token_id,
    )
    # The text's two encodings side by side; six numbers of 8 channels and the pooled text.
    unet = small_unet(
        cross_attention_dim=48,
        transformer_layers_per_block=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
        ),
        text_encoder=CLIPTextModelWithProjection(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=sd_pipeline.tokenizer,
        tokenizer_2=sd_pipeline.tokenizer,
        unet=unet.eval(),
        scheduler=sd_pipeline.scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_folder_loads_and_paints(tmp_path: Path) -> None:
    model = DiffusersTextToImage(str(WEIGHTS / "diffusion"), steps=2)
    model.load()
    assert {name for name, _ in model.named_children()} == {"unet", "vae", "text_encoder"}
    assert not any(weight.requires_grad for weight in model.parameters())
    generated = model.generate(PROMPTS[:1], [0])
    assert generated.images.shape == (1, 3, 64, 64)
    assert generated.images.dtype == torch.uint8
    assert generated.maps is None
    assert generated.images.float().std() > 1


def test_an_image_depends_on_its_own_seed_alone(sd_pipeline: StableDiffusionPipeline) -> None:
    seeds = [5, 6, 7]
    singly = generator(sd_pipeline, batch_size=1)
    together = generator(sd_pipeline, batch_size=3).generate(PROMPTS, seeds).images
    apart = singly.generate(PROMPTS, seeds).images
    # Batches of other sizes round in other places: now and then a pixel moves by one level (1 in 30,000 at 10 steps).
    differences = (together.int() - apart.int()).abs()
    assert differences.max() <= 1
    assert (differences > 0).float().mean() < 1e-3
    # One by one there is nothing to differ, in any order and company.
    assert torch.equal(singly.generate(PROMPTS[::-1], seeds[::-1]).images.flip(0), apart)
    assert torch.equal(singly.generate(PROMPTS[1:2], [6]).images, apart[1:2])
    other = singly.generate(PROMPTS[1:2], [7]).images
    assert (other.int() - apart[1:2].int()).abs().float().mean() > 1


def test_attribution_leaves_the_images_as_they_are(sd_pipeline: StableDiffusionPipeline) -> None:
    model = generator(sd_pipeline)
    plain = model.generate(PROMPTS[:2], [1, 2])
    for convention in ("ovdiff", "daam"):
        attributed = model.generate(PROMPTS[:2], [1, 2], ["photo"], Attribution(convention, resolution=None))
        assert torch.equal(attributed.images, plain.images)
        assert attributed.maps is not None
        assert attributed.maps.shape == (2, 1, 16, 16)


def test_guidance_steps_scheduler_and_size_matter_and_the_folder_does_not(sd_pipeline: StableDiffusionPipeline) -> None:
    base = generator(sd_pipeline)
    own = sd_pipeline.scheduler
    variants = [
        generator(sd_pipeline, **change)
        for change in (
            {"steps": 2},
            {"guidance": 1.0},
            {"negative_prompt": "a red house"},
            {"scheduler": "EulerAncestralDiscreteScheduler"},
            {"size": (64, 96)},
        )
    ]
    assert sd_pipeline.scheduler is own
    keys = [json.dumps(model.identity(), sort_keys=True, allow_nan=False) for model in [base, *variants]]
    assert len(set(keys)) == len(keys)
    image = base.generate(PROMPTS[:1], [3]).images
    for model in variants:
        changed = model.generate(PROMPTS[:1], [3]).images
        assert changed.shape[2:] == model.image_size
        assert changed.shape != image.shape or not torch.equal(changed, image)
    elsewhere = DiffusersTextToImage("another/name", steps=3, guidance=3.0, batch_size=1)
    elsewhere.adopt(sd_pipeline)
    assert elsewhere.identity() == base.identity()
    assert elsewhere.source() != base.source()
    assert str(WEIGHTS) not in keys[0]


def test_without_guidance_its_scale_and_negative_prompt_are_no_settings(sd_pipeline: StableDiffusionPipeline) -> None:
    one, zero = generator(sd_pipeline, guidance=1.0), generator(sd_pipeline, guidance=0.0, negative_prompt="text")
    assert one.identity() == zero.identity()
    assert torch.equal(one.generate(PROMPTS[:1], [3]).images, zero.generate(PROMPTS[:1], [3]).images)


def test_settings_know_the_weights(sd_pipeline: StableDiffusionPipeline) -> None:
    before = generator(sd_pipeline).identity()
    weight = sd_pipeline.text_encoder.get_input_embeddings().weight
    weight.data[0] += 1
    try:
        assert generator(sd_pipeline).identity()["weights"] != before["weights"]
    finally:
        weight.data[0] -= 1


def test_lcm_is_told_its_guidance(sd_pipeline: StableDiffusionPipeline) -> None:
    """Its pipeline has no negative prompt and never doubles the batch."""
    parts = {name: part for name, part in sd_pipeline.components.items() if name not in ("unet", "scheduler")}
    unet = small_unet(cross_attention_dim=128, time_cond_proj_dim=32).eval()
    pipeline = LatentConsistencyModelPipeline(
        **parts, unet=unet, scheduler=LCMScheduler(), requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    model = generator(pipeline, scheduler=None, steps=2)
    found = model.generate(PROMPTS[:1], [0], ["cat"], Attribution())
    assert found.images.shape == (1, 3, 32, 32)
    assert found.maps is not None
    assert model.identity()["negative_prompt"] is None
    assert model.identity()["guidance"] == 3.0
    assert extractor(pipeline, layers=["mid_block"], kind="output").features(random_images()).shape == (2, 32, 8, 8)


def test_sdxl_paints_attributes_and_gives_features(sdxl: StableDiffusionXLPipeline) -> None:
    model = generator(sdxl, steps=2)
    # All attention is in the coarser level: up, down and mid blocks of two transformer blocks each.
    found = model.generate(PROMPTS[:2], [0, 1], ["photo"], Attribution("daam", resolution=None))
    assert found.images.shape == (2, 3, 16, 16)
    assert found.maps is not None
    assert found.maps.shape == (2, 1, 8, 8)
    # DAAM's map is a sum over two steps, so a mean over the 24 or more tokens is about 2 / tokens.
    assert 0 < found.maps.mean() < 1
    model_parts = set(model.identity()["configuration"]["model"])
    assert model_parts >= {
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer_2",
    }
    features = extractor(sdxl, layers=["mid_block.attentions.0", "up_blocks.0.attentions.0"], fit="none")
    assert features.features(random_images(32, 48)).shape == (2, 64, 16, 24)


def test_errors_say_what_to_do(sd_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        DiffusersTextToImage(str(tmp_path)).load()
    with pytest.raises(ModelError, match="hf download no/such"):
        DiffusersTextToImage("no/such", variant="fp16").load()
    with pytest.raises(ConfigurationError, match="did you mean 'DDIMScheduler'"):
        generator(sd_pipeline, scheduler="DDIMSchedular")
    with pytest.raises(ConfigurationError, match="multiples of 8 pixels"):
        generator(sd_pipeline, size=60)
    with pytest.raises(ConfigurationError, match="as many seeds"):
        generator(sd_pipeline).generate(PROMPTS, [1])
    with pytest.raises(ConfigurationError, match="needs an Attribution"):
        generator(sd_pipeline).generate(PROMPTS[:1], [1], ["cat"])


def test_an_incomplete_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((WEIGHTS / "diffusion" / "model_index.json").read_text())
    with pytest.raises(ModelError, match="complete folder"):
        DiffusersTextToImage(str(tmp_path)).load()


def test_features_are_the_layers_queries_side_by_side(sd_pipeline: StableDiffusionPipeline) -> None:
    seen = {}
    names = [f"{layer}.transformer_blocks.0.attn2.to_q" for layer in LAYERS]
    hooks = [
        sd_pipeline.unet.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
        for name in names
    ]
    model, images = extractor(sd_pipeline, timestep=50), random_images()
    with torch.no_grad():
        noisy = noisy_latents(sd_pipeline, images, 50, [43, 43])
        text, _ = sd_pipeline.encode_prompt(["", ""], "cpu", 1, False)
        sd_pipeline.unet(noisy, 50, text)
    for hook in hooks:
        hook.remove()
    patches = model.features(images)
    assert patches.shape == (2, sum(seen[name].shape[2] for name in names), 16, 16)
    start = 0
    for name in names:
        query = seen[name].transpose(1, 2)
        found = patches[:, start : start + query.shape[1]]
        start += query.shape[1]
        if query.shape[2] == 256:
            assert torch.allclose(found.flatten(2), query, atol=1e-5)
        else:  # the coarser level is enlarged to the grid
            coarse = torch.nn.functional.interpolate(query.unflatten(2, (8, 8)), (16, 16), mode="bilinear")
            assert torch.allclose(found, coarse, atol=1e-5)


def test_features_depend_on_the_image_alone(sd_pipeline: StableDiffusionPipeline) -> None:
    model, images = extractor(sd_pipeline), random_images(count=3)
    together = model.features(images)
    alone = torch.cat([model.features(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(model.features(images[1:2]), alone[1:2])
    assert not torch.allclose(extractor(sd_pipeline, seed=1).features(images), together, atol=1e-2)
    assert not torch.allclose(model.features(images, prompts=["a cat"] * 3), together, atol=1e-3)


def test_block_outputs_and_self_attention_are_features_too(sd_pipeline: StableDiffusionPipeline) -> None:
    blocks = ["down_blocks.0", "up_blocks.0.resnets.0", "up_blocks.1.attentions.0"]
    model = extractor(sd_pipeline, layers=blocks, kind="output", attention_layers=["mid_block.attentions.0"])
    patches = model.features(random_images())
    attention = patches[:, -64:]
    assert patches.shape == (2, 64 + 128 + 64 + 64, 16, 16)
    assert torch.allclose(attention.sum(dim=1), torch.ones(2, 16, 16), atol=1e-4)
    assert attention.min() >= 0


@pytest.mark.parametrize(("fit", "grid"), [("squash", (16, 16)), ("short", (16, 20)), ("none", (24, 30))])
def test_fit_and_grid(sd_pipeline: StableDiffusionPipeline, fit: str, grid: tuple[int, int]) -> None:
    images = random_images(98, 118, count=1)
    assert extractor(sd_pipeline, fit=fit).features(images).shape[2:] == grid
    wide = extractor(sd_pipeline, fit=fit, grid=32).features(images).shape[2:]
    assert max(wide) == 32
    assert abs(wide[0] / wide[1] - grid[0] / grid[1]) < 0.05


def test_a_very_long_image_is_seen_small(sd_pipeline: StableDiffusionPipeline) -> None:
    """At four times the size, which is 64 here; the latents are a quarter of it."""
    model = extractor(sd_pipeline, fit="short")
    for height, width, grid in ((6, 640, (2, 64)), (640, 6, (64, 2)), (16, 63, (16, 64)), (20, 100, (12, 64))):
        assert model.features(random_images(height, width, count=1)).shape[2:] == grid


def test_the_pass_ends_at_the_last_layer_that_is_wanted(sd_pipeline: StableDiffusionPipeline) -> None:
    calls = []
    hook = sd_pipeline.unet.up_blocks[-1].register_forward_hook(lambda *_: calls.append(1))
    extractor(sd_pipeline, layers=["mid_block.attentions.0"]).features(random_images())
    hook.remove()
    assert not calls


def test_generator_and_features_share_their_networks() -> None:
    generator = DiffusersTextToImage(str(WEIGHTS / "diffusion"))
    features = DiffusionFeatures(str(WEIGHTS / "diffusion"), layers=LAYERS)
    generator.load()
    features.load()
    assert features.unet is generator.unet
    assert features.pipeline.scheduler is not generator.pipeline.scheduler
    assert json.dumps(features.identity(), allow_nan=False)
    # The noise is that of training, whatever the sampler.
    assert extractor(generator.pipeline).identity() == features.identity()


def test_features_refuse_what_is_not_there(sd_pipeline: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'up_blocks\.1\.attentions\.1'"):
        extractor(sd_pipeline, layers=["up_blocks.1.attention.1"])
    with pytest.raises(ConfigurationError, match="is no attention block"):
        extractor(sd_pipeline, layers=["up_blocks.1.resnets.1"])
    with pytest.raises(ConfigurationError, match=r"timestep must lie in \[0, 999\]"):
        extractor(sd_pipeline, timestep=1000).features(random_images())
    with pytest.raises(ConfigurationError, match="multiples of 8"):
        extractor(sd_pipeline, size=50).features(random_images())


def test_grids_round_up() -> None:
    assert [grid_of(n, (12, 18)) for n in (216, 54, 15, 6)] == [(12, 18), (6, 9), (3, 5), (2, 3)]
