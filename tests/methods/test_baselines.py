"""The baselines: CLIP as is and MaskCLIP with Miniature's CLIP, GroupViT and CLIPSeg against transformers' outputs."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from harness import ConfigurationError, ModelError, Protocol, Sample, SegmentationMethod, Vocabulary
from harness.commands import evaluate
from harness.method.method import predict_jointly
from harness.studies.reproduction import read_quoted
from methods import CLIPDense, CLIPSeg, GroupViT, MaskCLIP
from methods.backbones import OpenCLIP
from methods.backbones.clip_patches import CLIPPatches, Patches
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.hub_group_vit import HubGroupViT
from methods.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise
from methods.maskclip import denoise, smooth
from miniature.datamodule import Miniature
from tests.methods.doubles import window_scores
from tests.methods.tiny_models import save_clip_seg, save_group_vit
from tests.running import REPOSITORY

CLIP = "local-dir:miniature/weights/clip"
WORDS = Vocabulary.from_class_names("cat, tree, boat")
CLOSED = Vocabulary(("cat", "tree", "boat"))
PROTOCOL = Protocol("test", resize="none", window=64, stride=32, templates=("a photo of a {}.", "{}"))
SIZES = ((1, 9), (9, 1), (1, 1), (3, 60), (64, 64), (70, 100))


def patches(size: int | None = None) -> CLIPPatches:
    return CLIPPatches(OpenCLIP(CLIP), size)


def pictures(count: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=random, dtype=torch.uint8)


def sample(height: int = 64, width: int = 64, seed: int = 0) -> Sample:
    image = pictures(1, height, width, seed)[0]
    return Sample(0, "x", image, image, None, (height, width))


def ready(method: SegmentationMethod, words: Vocabulary = WORDS, protocol: Protocol = PROTOCOL) -> Any:
    method.make_ready(words, protocol)
    with torch.inference_mode():
        method.prepare()
    return method


@pytest.fixture(scope="module")
def group_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_group_vit(tmp_path_factory.mktemp("group_vit"))


@pytest.fixture(scope="module")
def clip_seg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_seg(tmp_path_factory.mktemp("clip_seg"))


def loaded(model: Any) -> Any:
    model.load()
    return model


# CLIP as is.


@torch.inference_mode()
def test_tokens_are_open_clips_own_projected_like_its_images() -> None:
    clip = loaded(patches())
    images = pictures(2, 32, 32)
    visual = clip.clip.model.visual
    visual.output_tokens = True
    pooled, tokens = visual(normalise(images, *clip.clip.normalisation))
    visual.output_tokens = False
    found = clip.tokens(images)
    expected = F.normalize(tokens @ visual.proj, dim=-1).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(found.embeddings, expected)
    assert found.extent == (0, 0, 32, 32)
    # The projection is the one that images get.
    torch.testing.assert_close(F.normalize(pooled, dim=-1), clip.encode_images(images))


@torch.inference_mode()
def test_scores_are_cosines_with_the_templates_mean() -> None:
    method = ready(CLIPDense(patches(), background_threshold=0.3))
    windows = pictures()
    text = method.clip.clip.encode_classes(WORDS.foreground, PROTOCOL.templates)
    found = window_scores(method, windows)[0]
    expected = (method.clip.tokens(windows).embeddings[:, None] * text[None, :, :, None, None]).sum(dim=2)
    torch.testing.assert_close(found.scores, expected)
    assert found.scores.dtype == torch.float32
    own = ready(CLIPDense(patches(), templates=["{}"], background_threshold=0.3))
    torch.testing.assert_close(own.text, own.clip.encode_classes(WORDS.foreground, ["{}"]))
    assert not torch.allclose(own.text, method.text)
    warm = ready(CLIPDense(patches(), temperature=0.1, background_threshold=0.3))
    torch.testing.assert_close(window_scores(warm, windows)[0].scores, (expected / 0.1).softmax(dim=1))


@torch.inference_mode()
def test_padding_lies_outside_of_the_image() -> None:
    clip = loaded(patches())
    found = clip.tokens(pictures(1, 30, 9))
    assert found.embeddings.shape[2:] == (8, 3)
    assert found.extent == (0, 0, 32, 12)
    squashed = loaded(patches(size=32)).tokens(pictures(1, 48, 96))
    assert squashed.embeddings.shape[2:] == (8, 8)
    assert squashed.extent == (0, 0, 48, 96)


# MaskCLIP.


def by_hand(clip: CLIPPatches, images: torch.Tensor, residual: bool) -> torch.Tensor:
    """The last block patch by patch, from open_clip's own modules: no attention, so each is on its own."""
    visual = clip.clip.model.visual
    pixels = normalise(images, *clip.clip.normalisation)
    *before, block = visual.transformer.resblocks
    x = visual._embeds(pixels)
    for each in before:
        x = each(x)
    width = x.shape[-1]
    weight, bias = block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:]
    out = torch.zeros(len(x), 8, 8, visual.proj.shape[1])
    for row in range(8):
        for column in range(8):
            token = x[:, 1 + 8 * row + column]
            v = (weight @ block.ln_1(token).T).T + bias
            v = (block.attn.out_proj.weight @ v.T).T + block.attn.out_proj.bias
            if residual:
                v = v + token
                v = v + block.mlp(block.ln_2(v))
            out[:, row, column] = visual.ln_post(v) @ visual.proj
    return F.normalize(out, dim=-1).permute(0, 3, 1, 2)


@torch.inference_mode()
@pytest.mark.parametrize("residual", [False, True])
def test_values_are_those_of_the_last_layer_without_attention(residual: bool) -> None:
    clip = loaded(patches())
    images = pictures(2, 32, 32)
    found = clip.values(images, residual)
    torch.testing.assert_close(found.embeddings, by_hand(clip, images, residual), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.embeddings, clip.tokens(images).embeddings, atol=1e-2)
    method = ready(MaskCLIP(patches(), residual=residual, background_threshold=0.1))
    expected = torch.einsum("bdhw,cd->bchw", found.embeddings, method.text)
    torch.testing.assert_close(window_scores(method, images)[0].scores, expected)


@torch.inference_mode()
def test_keys_are_the_last_attentions() -> None:
    clip = loaded(patches())
    images = pictures(1, 32, 40)
    dense = clip._dense[0]
    torch.testing.assert_close(clip.values(images).keys, dense.features(images, "key", -1).patches)


def miou(method: SegmentationMethod, scenes: list[Sample], classes: int) -> float:
    counts = torch.zeros(classes, classes, dtype=torch.long)
    for prediction in chain.from_iterable(method.predict_step([scene], 0) for scene in scenes):
        assert prediction.labels is not None
        truth = torch.as_tensor(prediction.sample.labels).long()
        known = truth != 255
        pairs = truth[known] * classes + prediction.labels[known].long()
        counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    both = counts.diag()
    union = counts.sum(dim=0) + counts.sum(dim=1) - both
    return float((both / union)[union > 0].mean())


@torch.inference_mode()
def test_maskclip_sees_where_clip_as_is_does_not() -> None:
    protocol = Protocol("test", resize="keep_ratio", size=(448, 96), window=96, stride=48)
    data = Miniature(split="train", classes="all", limit=8)
    data.plan(protocol, range(len(data.ids)))
    scenes = list(chain.from_iterable(data.predict_dataloader()))
    classes = len(data.vocabulary)
    assert not data.vocabulary.background
    found = miou(ready(MaskCLIP(patches()), data.vocabulary, protocol), scenes, classes)
    as_is = miou(ready(CLIPDense(patches()), data.vocabulary, protocol), scenes, classes)
    # Guessing among C classes has an IoU of at most 1 / C.
    assert found > 2.5 / classes
    assert found > 2 * as_is


def test_prompt_denoising_leaves_out_who_is_sure_of_nothing() -> None:
    confidences = torch.tensor([[[[0.6, 0.2]], [[0.4, 0.4]], [[0.0, 0.4]]], [[[0.3, 0.3]], [[0.4, 0.3]], [[0.3, 0.4]]]])
    scores = torch.arange(12.0).view(2, 3, 1, 2)
    found = denoise(scores, confidences, 0.5, -1.0)
    assert found[0].tolist() == [[[0, 1]], [[-1, -1]], [[-1, -1]]]
    # Nobody is sure in the second window.
    assert torch.equal(found[1], scores[1])


def test_key_smoothing_is_a_mean_weighted_by_cosines() -> None:
    scores, keys = torch.rand(2, 3, 2, 4), torch.randn(2, 5, 2, 4)
    found = smooth(scores, keys)
    for b in range(2):
        for i in range(8):
            cosines = F.cosine_similarity(keys[b].flatten(1)[:, i : i + 1], keys[b].flatten(1), dim=0)
            torch.testing.assert_close(found[b].flatten(1)[:, i], (scores[b].flatten(1) * cosines).mean(dim=1))


@torch.inference_mode()
def test_refinements_are_off_unless_asked_for() -> None:
    windows = pictures(1)
    method = ready(MaskCLIP(patches(), background_threshold=0.1))
    plain = window_scores(method, windows)[0].scores
    confidences = (plain / 0.01).softmax(dim=1)
    surest = confidences.amax(dim=(2, 3))
    method.prompt_denoising = float(surest.max())
    left = window_scores(method, windows)[0].scores
    assert torch.equal(left, torch.where((surest == surest.max())[:, :, None, None], plain, -1.0))
    method.prompt_denoising, method.key_smoothing = None, True
    smoothed = window_scores(method, windows)[0].scores
    torch.testing.assert_close(smoothed, smooth(confidences, method.clip.values(windows).keys))


@torch.inference_mode()
def test_configurations_of_equal_encoding_share_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = patches()
    methods = [ready(MaskCLIP(clip, background_threshold=threshold)) for threshold in (0.1, 0.2)]
    values, batches = CLIPPatches.values, []

    def counting(model: CLIPPatches, images: torch.Tensor, residual: bool = False) -> Patches:
        batches.append(len(images))
        return values(model, images, residual)

    monkeypatch.setattr(CLIPPatches, "values", counting)
    maps = predict_jointly(methods, sample())
    jointly = len(batches)
    assert torch.equal(maps[1], methods[1].predict_image(sample()))
    assert len(batches) == 2 * jointly
    assert not torch.equal(*maps)


# GroupViT.


@torch.inference_mode()
def test_groups_make_up_transformers_segmentation(group_vit: Path) -> None:
    backbone = loaded(HubGroupViT(str(group_vit)))
    texts = ["a photo of a cat.", "tree"]
    tokens = backbone._tokenizer(texts, padding=True, return_tensors="pt")
    ids = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    images = pictures()
    pixels = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
    theirs = backbone.model(pixel_values=pixels, output_segmentation=True, **ids)
    groups = backbone.group(images)
    text = backbone.encode_text(texts)
    torch.testing.assert_close(text, theirs.text_embeds)
    torch.testing.assert_close(groups.mean, theirs.image_embeds)
    torch.testing.assert_close(backbone.encode_images(images), theirs.image_embeds)
    scale = backbone.model.logit_scale.exp()
    logits = groups.embeddings @ text.T * scale
    spread = F.interpolate(groups.assignment, (64, 64), mode="bilinear", align_corners=False)
    segmentation = torch.einsum("bgt,bghw->bthw", logits, spread) * scale
    torch.testing.assert_close(segmentation, theirs.segmentation_logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(groups.assignment.sum(dim=1), torch.ones(2, 8, 8))


@torch.inference_mode()
def test_group_vit_follows_the_release_window_by_window(group_vit: Path) -> None:
    method = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.3, top_classes=2, score_stride=1))
    windows = pictures(3)
    found = window_scores(method, windows)[0]
    assert found.scores.shape == (3, 4, 64, 64)
    for number, window in enumerate(windows):
        groups = method.model.group(window[None])
        owner = F.interpolate(groups.assignment, (64, 64), mode="bilinear")[0].argmax(dim=0)
        logits = groups.embeddings[0] @ method.text.T * method.model.logit_scale
        allowed = (groups.mean[0] @ method.text.T).topk(2).indices.tolist()
        table = torch.zeros(2, 3)
        for group in range(2):
            total = sum(float(logits[group, c].exp()) for c in allowed)
            for c in allowed:
                table[group, c] = float(logits[group, c].exp()) / total * float(logits[group].softmax(dim=0)[c])
        torch.testing.assert_close(found.scores[number, 1:], table[owner].permute(2, 0, 1))
        threshold = min(0.3, float(table.max()))
        assert torch.equal(found.scores[number, 0], (table[owner].amax(dim=2) < threshold).float())
    assert len({tuple(each.flatten().tolist()) for each in found.scores}) == 3


@torch.inference_mode()
def test_a_windows_surest_group_is_no_background(group_vit: Path) -> None:
    method = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=1.0))
    scores = method._group_scores(method.model.group(pictures(5)))
    surest = scores[:, 1:].amax(dim=1).argmax(dim=1)
    assert torch.equal(scores[:, 0], 1 - F.one_hot(surest, 2).float())
    none = ready(GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.0))
    assert (none.predict_image(sample()) > 0).all()
    closed = ready(GroupViT(HubGroupViT(str(group_vit))), CLOSED)
    assert window_scores(closed, pictures())[0].scores.shape == (2, 3, 16, 16)


# CLIPSeg.


@torch.inference_mode()
def test_masks_are_transformers_own(clip_seg: Path) -> None:
    backbone = loaded(HubCLIPSeg(str(clip_seg), size=32, class_batch=2))
    texts = ["a photo of a cat.", "tree", "a boat"]
    tokens = backbone._tokenizer(texts, padding=True, return_tensors="pt")
    ids = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    images = pictures(2, 32, 32)
    found = backbone.masks(backbone.activations(images), backbone.embed_text(texts))
    for number, image in enumerate(images):
        pixels = normalise(image[None], IMAGENET_MEAN, IMAGENET_STD).expand(3, -1, -1, -1)
        theirs = backbone.model(pixel_values=pixels, **ids)
        torch.testing.assert_close(found[number], theirs.logits.sigmoid())
        features = backbone.model.clip.get_image_features(pixels[:1]).pooler_output
        torch.testing.assert_close(backbone.encode_images(image[None]), F.normalize(features, dim=-1))
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-4)
    coarse = backbone.masks(backbone.activations(images), backbone.embed_text(texts), 5)
    assert coarse.shape == (2, 3, 7, 7)
    halved = backbone.masks(backbone.activations(images), backbone.embed_text(texts), 2)
    torch.testing.assert_close(halved, F.avg_pool2d(found, 2))


@torch.inference_mode()
def test_a_classs_condition_is_the_mean_over_templates(clip_seg: Path) -> None:
    method = ready(CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), templates=None, background_threshold=0.5))
    texts = ["a photo of a tree.", "tree"]
    torch.testing.assert_close(method.conditions[1], method.model.embed_text(texts).mean(dim=0))
    assert ready(CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), background_threshold=0.5)).conditions.shape == (3, 12)


# All of them.


@pytest.fixture(params=["clip_dense", "maskclip", "group_vit", "clip_seg"])
def make(request: pytest.FixtureRequest, group_vit: Path, clip_seg: Path) -> Callable[[], SegmentationMethod]:
    return {
        "clip_dense": lambda: CLIPDense(patches(), background_threshold=0.3),
        "maskclip": lambda: MaskCLIP(patches(), background_threshold=0.1),
        "group_vit": lambda: GroupViT(HubGroupViT(str(group_vit)), background_threshold=0.3),
        "clip_seg": lambda: CLIPSeg(HubCLIPSeg(str(clip_seg), size=32), background_threshold=0.5),
    }[request.param]


@torch.inference_mode()
def test_images_of_any_size_and_vocabularies_of_any_length(make: Callable[[], SegmentationMethod]) -> None:
    for words in (WORDS, CLOSED, Vocabulary(("cat",)), Vocabulary.from_class_names("cat")):
        method = ready(make(), words)
        for height, width in SIZES:
            found = method.predict_step([sample(height, width)], 0)[0].labels
            assert found is not None
            assert found.shape == (height, width)
            assert found.dtype == torch.uint8
            assert found.max() < len(words)


@torch.inference_mode()
def test_a_window_does_not_depend_on_its_batch(make: Callable[[], SegmentationMethod]) -> None:
    method = ready(make())
    windows = pictures(3)
    together = window_scores(method, windows)[0].scores
    for number in range(3):
        alone = window_scores(method, windows[number : number + 1])[0].scores
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-4)


def test_weights_are_told_by_one_hash_per_model(make: Callable[[], SegmentationMethod]) -> None:
    assert list(ready(make()).weights()) in (["clip"], ["model"])


@pytest.mark.parametrize("model", [HubGroupViT, HubCLIPSeg])
def test_a_missing_or_wrong_model_is_one_sentence(model: Any, group_vit: Path, clip_seg: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder '\./nowhere'"):
        model("./nowhere").load()
    with pytest.raises(ModelError, match=f"hf download {model().name}"):
        model().load()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="neither a complete folder"):
        model(str(tmp_path)).load()
    with pytest.raises(ModelError, match="a model of type"):
        model(str(clip_seg if model is HubGroupViT else group_vit)).load()


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: CLIPDense(patches(), temperature=0), "temperature"),
        (lambda: CLIPDense(patches(), templates=["no name"]), "templates"),
        (lambda: CLIPPatches(OpenCLIP(CLIP), size=0), "size"),
        (lambda: MaskCLIP(patches(), prompt_denoising=1.5), "prompt_denoising"),
        (lambda: GroupViT(HubGroupViT(), background_threshold=2), "background_threshold"),
        (lambda: GroupViT(HubGroupViT(), top_classes=0), "top_classes"),
        (lambda: CLIPSeg(HubCLIPSeg(), score_stride=0), "score_stride"),
        (lambda: HubCLIPSeg(class_batch=0), "class_batch"),
        (lambda: HubGroupViT(text_batch=0), "text_batch"),
    ],
)
def test_bad_settings_are_named(build: Callable[[], Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        build()


def test_a_size_that_is_no_whole_number_of_patches_is_named(clip_seg: Path) -> None:
    with pytest.raises(ConfigurationError, match="multiple of"):
        HubCLIPSeg(str(clip_seg), size=33).load()


# Their configurations.

FILES = sorted((REPOSITORY / "configs" / "experiments" / "baselines").glob("*.yaml"))
ROWS = [file for file in FILES if not file.stem.startswith("reco_")]
BENCHMARKS = {"voc21", "context60", "coco_object_tcl", "context59", "coco_stuff", "ade20k", "cityscapes"}


def test_every_baseline_has_a_row_for_every_benchmark() -> None:
    found = {row.stem for row in ROWS}
    assert found == {
        f"{name}_{data}" for name in ("clip_dense", "maskclip", "group_vit", "clip_seg") for data in BENCHMARKS
    }
    for row in ROWS:
        content = yaml.safe_load(row.read_text())
        assert row.read_text().startswith("# ")
        assert content["published"]["paper"] == "baselines"
        assert (content["published"]["value"] is None) == content["published"]["table"].startswith("in none")
        assert content["protocol"] == "../../protocols/tcl.yaml"
        assert row.stem == f"{Path(content['method']).stem}_{Path(content['data']).stem}"


def test_rows_parse_and_name_the_published_models() -> None:
    parser = evaluate.parser()
    parsed = {row: parser.parse_args(["--config", str(row)]) for row in ROWS if row.stem.endswith(("voc21", "ade20k"))}
    named = {row.stem: each.method.init_args for row, each in parsed.items()}
    assert named["group_vit_voc21"].model.init_args.name == "nvidia/groupvit-gcc-yfcc"
    assert named["group_vit_ade20k"].model.init_args.name == "nvidia/groupvit-gcc-redcaps"
    assert named["clip_seg_ade20k"].model.init_args.name == "CIDAS/clipseg-rd64-refined"
    for name in ("clip_dense", "maskclip"):
        assert named[f"{name}_voc21"].clip.init_args.clip.init_args.pretrained == "openai"
        assert (named[f"{name}_voc21"].temperature, named[f"{name}_ade20k"].temperature) == (0.01, None)


def test_reco_is_given_as_published_for_every_benchmark() -> None:
    quoted = {file.stem.removeprefix("reco_"): read_quoted(file) for file in FILES if file not in ROWS}
    assert set(quoted) == BENCHMARKS
    assert all(each is not None and each.row == "ReCo" and each.value is not None for each in quoted.values())
    assert read_quoted(ROWS[0]) is None
