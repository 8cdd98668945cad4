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
from methods.backbones.class_attention import class_texts
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


def pictures(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
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
def sdxl(painter: StableDiffusionPipeline) -> StableDiffusionXLPipeline:
    """Two tokenizers and text encoders, a pooled text and the image's size; two transformer blocks a layer."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(painter.tokenizer),
        hidden_size=24,
        intermediate_size=32,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=painter.tokenizer.model_max_length,
        eos_token_id=painter.tokenizer.eos_token_id,
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
        tokenizer=painter.tokenizer,
        tokenizer_2=painter.tokenizer,
        unet=unet.eval(),
        scheduler=painter.scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_folder_loads_and_paints(tmp_path: Path) -> None:
    model = DiffusersTextToImage(str(WEIGHTS / "diffusion"), steps=2)
    model.load()
    assert {name for name, _ in model.named_children()} == {"unet", "vae", "text_encoder"}
    assert not any(weight.requires_grad for weight in model.parameters())
    painted = model.generate(PROMPTS[:1], [0])
    assert painted.images.shape == (1, 3, 64, 64)
    assert painted.images.dtype == torch.uint8
    assert painted.maps is None
    assert painted.images.float().std() > 1


def test_a_image_depends_on_its_own_seed_alone(painter: StableDiffusionPipeline) -> None:
    seeds = [5, 6, 7]
    singly = generator(painter, batch_size=1)
    together = generator(painter, batch_size=3).generate(PROMPTS, seeds).images
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


def test_attribution_leaves_the_images_as_they_are(painter: StableDiffusionPipeline) -> None:
    model = generator(painter)
    plain = model.generate(PROMPTS[:2], [1, 2])
    for convention in ("ovdiff", "daam"):
        attributed = model.generate(PROMPTS[:2], [1, 2], ["photo"], Attribution(convention, resolution=None))
        assert torch.equal(attributed.images, plain.images)
        assert attributed.maps is not None
        assert attributed.maps.shape == (2, 1, 16, 16)


def test_guidance_steps_scheduler_and_size_matter_and_the_folder_does_not(painter: StableDiffusionPipeline) -> None:
    base = generator(painter)
    own = painter.scheduler
    variants = [
        generator(painter, **change)
        for change in (
            {"steps": 2},
            {"guidance": 1.0},
            {"negative_prompt": "a red house"},
            {"scheduler": "EulerAncestralDiscreteScheduler"},
            {"size": (64, 96)},
        )
    ]
    assert painter.scheduler is own
    keys = [json.dumps(model.identity(), sort_keys=True, allow_nan=False) for model in [base, *variants]]
    assert len(set(keys)) == len(keys)
    image = base.generate(PROMPTS[:1], [3]).images
    for model in variants:
        changed = model.generate(PROMPTS[:1], [3]).images
        assert changed.shape[2:] == model.image_size
        assert changed.shape != image.shape or not torch.equal(changed, image)
    elsewhere = DiffusersTextToImage("another/name", steps=3, guidance=3.0, batch_size=1)
    elsewhere.adopt(painter)
    assert elsewhere.identity() == base.identity()
    assert elsewhere.source() != base.source()
    assert str(WEIGHTS) not in keys[0]


def test_without_guidance_its_scale_and_negative_prompt_are_no_settings(painter: StableDiffusionPipeline) -> None:
    one, zero = generator(painter, guidance=1.0), generator(painter, guidance=0.0, negative_prompt="text")
    assert one.identity() == zero.identity()
    assert torch.equal(one.generate(PROMPTS[:1], [3]).images, zero.generate(PROMPTS[:1], [3]).images)


def test_settings_know_the_weights(painter: StableDiffusionPipeline) -> None:
    before = generator(painter).identity()
    weight = painter.text_encoder.get_input_embeddings().weight
    weight.data[0] += 1
    try:
        assert generator(painter).identity()["weights"] != before["weights"]
    finally:
        weight.data[0] -= 1


def test_lcm_is_told_its_guidance(painter: StableDiffusionPipeline) -> None:
    """Its pipeline has no negative prompt and never doubles the batch."""
    parts = {name: part for name, part in painter.components.items() if name not in ("unet", "scheduler")}
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
    assert extractor(pipeline, layers=["mid_block"], kind="output").features(pictures()).shape == (2, 32, 8, 8)


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
    assert features.features(pictures(32, 48)).shape == (2, 64, 16, 24)


def test_errors_say_what_to_do(painter: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        DiffusersTextToImage(str(tmp_path)).load()
    with pytest.raises(ModelError, match="hf download no/such"):
        DiffusersTextToImage("no/such", variant="fp16").load()
    with pytest.raises(ConfigurationError, match="did you mean 'DDIMScheduler'"):
        generator(painter, scheduler="DDIMSchedular")
    with pytest.raises(ConfigurationError, match="multiples of 8 pixels"):
        generator(painter, size=60)
    with pytest.raises(ConfigurationError, match="as many seeds"):
        generator(painter).generate(PROMPTS, [1])
    with pytest.raises(ConfigurationError, match="needs an Attribution"):
        generator(painter).generate(PROMPTS[:1], [1], ["cat"])


def test_an_incomplete_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((WEIGHTS / "diffusion" / "model_index.json").read_text())
    with pytest.raises(ModelError, match="complete folder"):
        DiffusersTextToImage(str(tmp_path)).load()


def test_features_are_the_layers_queries_side_by_side(painter: StableDiffusionPipeline) -> None:
    seen = {}
    names = [f"{layer}.transformer_blocks.0.attn2.to_q" for layer in LAYERS]
    hooks = [
        painter.unet.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
        for name in names
    ]
    model, images = extractor(painter, timestep=50), pictures()
    with torch.no_grad():
        noisy = noisy_latents(painter, images, 50, [43, 43])
        text, _ = painter.encode_prompt(["", ""], "cpu", 1, False)
        painter.unet(noisy, 50, text)
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


def test_features_depend_on_the_image_alone(painter: StableDiffusionPipeline) -> None:
    model, images = extractor(painter), pictures(count=3)
    together = model.features(images)
    alone = torch.cat([model.features(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(model.features(images[1:2]), alone[1:2])
    assert not torch.allclose(extractor(painter, seed=1).features(images), together, atol=1e-2)
    assert not torch.allclose(model.features(images, prompts=["a cat"] * 3), together, atol=1e-3)


def test_every_image_can_meet_a_fresh_draw_of_noise(painter: StableDiffusionPipeline) -> None:
    one, other = pictures(count=2)
    other[:] = one
    other[0, 0, 0] ^= 1
    pair = torch.stack([one, other])
    same, fresh = extractor(painter), extractor(painter, fresh_noise=True)

    def apart(model: DiffusionFeatures) -> float:
        first, second = model.features(pair)
        return float((first - second).norm() / first.norm())

    # A level of one value changes nothing but what is drawn.
    assert apart(same) < 0.01
    assert apart(fresh) > 0.1
    # What is drawn for an image depends neither on its neighbours nor on what was drawn before.
    assert torch.equal(fresh.features(one[None]), extractor(painter, fresh_noise=True).features(one[None]))
    assert torch.allclose(fresh.features(pair)[1:], fresh.features(other[None]), atol=1e-4)
    assert not torch.allclose(extractor(painter, fresh_noise=True, seed=1).features(pair), fresh.features(pair))
    assert same.identity() != fresh.identity()


def test_bilinear_inputs_are_neither_antialiased_nor_rounded(painter: StableDiffusionPipeline) -> None:
    images = pictures(128, 128, count=1)
    # Half the size: the mean of two by two pixels, with or without antialiasing; a third: the middle one of three.
    thirds = pictures(192, 192, count=1)
    bilinear = extractor(painter, size=64, interpolation="bilinear")
    assert torch.equal(bilinear.features(thirds), bilinear.features(thirds[:, :, 1::3, 1::3].contiguous()))
    assert not torch.equal(bilinear.features(images), extractor(painter, size=64).features(images))


def test_block_outputs_and_self_attention_are_features_too(painter: StableDiffusionPipeline) -> None:
    blocks = ["down_blocks.0", "up_blocks.0.resnets.0", "up_blocks.1.attentions.0"]
    model = extractor(painter, layers=blocks, kind="output", attention_layers=["mid_block.attentions.0"])
    patches = model.features(pictures())
    attention = patches[:, -64:]
    assert patches.shape == (2, 64 + 128 + 64 + 64, 16, 16)
    assert torch.allclose(attention.sum(dim=1), torch.ones(2, 16, 16), atol=1e-4)
    assert attention.min() >= 0


def released_text(pipeline: StableDiffusionPipeline, name: str) -> torch.Tensor:
    """FreeSeg-Diff's release, ``runner.py``, literally: words apart, states averaged, positions by the bare name."""
    states = [pipeline.encode_prompt([f"A photo of {word}"], "cpu", 1, False)[0] for word in name.split()]
    encoded = torch.cat(states).mean(0)
    return encoded[1 : len(pipeline.tokenizer(name)["input_ids"])].mean(0)


@pytest.mark.parametrize("tokens", ["released", "name"])
def test_attention_to_classes_is_appended_as_logits_per_layer_head_and_class(
    painter: StableDiffusionPipeline, tokens: str
) -> None:
    names, blocks = ["cat", "sun", "dining table"], ["mid_block.attentions.0", "up_blocks.1.attentions.0"]
    model = extractor(
        painter, attention_layers=blocks, attention="classes", class_tokens=tokens, timestep=0, noise=False
    )
    images = pictures()
    found = model.class_features(images, names)
    plain = extractor(painter, timestep=0, noise=False).features(images)
    assert torch.equal(found[:, : plain.shape[1]], plain)
    assert torch.equal(model.class_features(images, []), plain)
    # The release's attentionHook.py, literally: q of the block's input, k of the text, per head, scaled, no softmax.
    seen = {}
    modules = {name: painter.unet.get_submodule(f"{name}.transformer_blocks.0.attn2") for name in blocks}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: m.to_q(i[0])}))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        latents = noisy_latents(painter, images, 0, [43, 43], noise=False)
        painter.unet(latents, 0, painter.encode_prompt(["", ""], "cpu", 1, False)[0])
        # Of "A photo of dining table" positions 4 to 8 are "dining table"'s five tokens in Miniature's vocabulary.
        spans = {"cat": (4, 5), "sun": (4, 5), "dining table": (4, 9)}
        texts = {
            "released": lambda name: released_text(painter, name),
            "name": lambda name: painter.encode_prompt([f"A photo of {name}"], "cpu", 1, False)[0][0][
                slice(*spans[name])
            ].mean(0),
        }[tokens]
        expected = []
        for name, module in modules.items():
            keys = module.head_to_batch_dim(module.to_k(torch.stack([texts(each) for each in names])[None]))
            maps = []
            for image in range(2):
                queries = module.head_to_batch_dim(seen[name][image : image + 1])
                logits = torch.einsum("bid,bjd->bij", queries, keys) * module.scale
                side = int(logits.shape[1] ** 0.5)
                maps.append(logits.permute(0, 2, 1).reshape(1, -1, side, side))
            expected.append(torch.nn.functional.interpolate(torch.cat(maps), (16, 16), mode="bilinear"))
    for hook in hooks:
        hook.remove()
    # Four and two heads, three classes each.
    assert expected[0].shape[1] == 12
    torch.testing.assert_close(found[:, plain.shape[1] :], torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_released_texts_are_the_templates_for_short_names_and_the_names_own_otherwise(
    painter: StableDiffusionPipeline,
) -> None:
    released, named = (class_texts(painter, ["cat", "boat"], "A photo of {}", kind) for kind in ("released", "name"))
    # "a" and "photo", which the encoder reads before the name.
    assert torch.allclose(released[0], released[1], atol=1e-5)
    assert not torch.allclose(named[0], named[1], atol=1e-2)


def test_attention_to_classes_needs_their_names(painter: StableDiffusionPipeline) -> None:
    model = extractor(painter, attention_layers=["mid_block.attentions.0"], attention="classes")
    with pytest.raises(ConfigurationError, match="names of the classes"):
        model.features(pictures())
    alone = extractor(painter, layers=[], attention_layers=["mid_block.attentions.0"], attention="classes")
    assert alone.class_features(pictures(), ["cat"]).shape[1] == 4
    with pytest.raises(ConfigurationError, match="need class names"):
        alone.class_features(pictures(), [])
    with pytest.raises(ConfigurationError, match="class_template"):
        extractor(painter, class_template="A photo")
    # Another list of names is another text.
    first = alone.class_features(pictures(), ["dining table"])
    assert not torch.equal(first, alone.class_features(pictures(), ["cat"]))
    assert torch.equal(first, alone.class_features(pictures(), ["dining table"]))


def test_settings_of_the_attention_are_identity(painter: StableDiffusionPipeline) -> None:
    base = {"attention_layers": ["mid_block.attentions.0"], "attention": "classes"}
    changes = ({}, {"attention": "self"}, {"class_template": "{}"}, {"class_tokens": "name"}, {"attention_layers": []})
    found = {json.dumps(extractor(painter, **(base | change)).identity(), sort_keys=True) for change in changes}
    assert len(found) == len(changes)


def test_attention_to_classes_runs_on_sdxl(sdxl: StableDiffusionXLPipeline) -> None:
    model = extractor(
        sdxl, layers=["mid_block.attentions.0"], attention_layers=["mid_block.attentions.0"], attention="classes"
    )
    heads = sdxl.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").heads
    assert model.class_features(pictures(), ["cat", "sun"]).shape[1] == 32 + 2 * heads


@pytest.mark.parametrize(("fit", "grid"), [("squash", (16, 16)), ("short", (16, 20)), ("none", (24, 30))])
def test_fit_and_grid(painter: StableDiffusionPipeline, fit: str, grid: tuple[int, int]) -> None:
    images = pictures(98, 118, count=1)
    assert extractor(painter, fit=fit).features(images).shape[2:] == grid
    wide = extractor(painter, fit=fit, grid=32).features(images).shape[2:]
    assert max(wide) == 32
    assert abs(wide[0] / wide[1] - grid[0] / grid[1]) < 0.05


def test_a_very_long_image_is_seen_small(painter: StableDiffusionPipeline) -> None:
    """At four times the size, which is 64 here; the latents are a quarter of it."""
    model = extractor(painter, fit="short")
    for height, width, grid in ((6, 640, (2, 64)), (640, 6, (64, 2)), (16, 63, (16, 64)), (20, 100, (12, 64))):
        assert model.features(pictures(height, width, count=1)).shape[2:] == grid


def test_the_pass_ends_at_the_last_layer_that_is_wanted(painter: StableDiffusionPipeline) -> None:
    calls = []
    hook = painter.unet.up_blocks[-1].register_forward_hook(lambda *_: calls.append(1))
    extractor(painter, layers=["mid_block.attentions.0"]).features(pictures())
    hook.remove()
    assert not calls


def test_generator_and_features_share_their_networks() -> None:
    painting = DiffusersTextToImage(str(WEIGHTS / "diffusion"))
    features = DiffusionFeatures(str(WEIGHTS / "diffusion"), layers=LAYERS)
    painting.load()
    features.load()
    assert features.unet is painting.unet
    assert features.pipeline.scheduler is not painting.pipeline.scheduler
    assert json.dumps(features.identity(), allow_nan=False)
    # The noise is that of training, whatever the sampler.
    assert extractor(painting.pipeline).identity() == features.identity()


def test_features_refuse_what_is_not_there(painter: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'up_blocks\.1\.attentions\.1'"):
        extractor(painter, layers=["up_blocks.1.attention.1"])
    with pytest.raises(ConfigurationError, match="is no attention block"):
        extractor(painter, layers=["up_blocks.1.resnets.1"])
    with pytest.raises(ConfigurationError, match=r"timestep must lie in \[0, 999\]"):
        extractor(painter, timestep=1000).features(pictures())
    with pytest.raises(ConfigurationError, match="multiples of 8"):
        extractor(painter, size=50).features(pictures())


def test_grids_round_up() -> None:
    assert [grid_of(n, (12, 18)) for n in (216, 54, 15, 6)] == [(12, 18), (6, 9), (3, 5), (2, 3)]
