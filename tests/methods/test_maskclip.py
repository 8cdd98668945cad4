"""MaskCLIP with Miniature's CLIP: values of the last layer, and its refinements."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from harness import Protocol, Sample, SegmentationMethod
from harness.method.method import predict_jointly
from methods import CLIPDense, MaskCLIP
from methods.backbones.clip_patches import CLIPPatches, Patches
from methods.backbones.pixels import normalise
from methods.maskclip import denoise, smooth
from miniature.datamodule import Miniature
from tests.methods.baselines import loaded, patches, random_images, ready, sample
from tests.methods.doubles import window_scores


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
    images = random_images(2, 32, 32)
    found = clip.values(images, residual)
    torch.testing.assert_close(found.embeddings, by_hand(clip, images, residual), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.embeddings, clip.tokens(images).embeddings, atol=1e-2)
    method = ready(MaskCLIP(patches(), residual=residual, background_threshold=0.1))
    expected = torch.einsum("bdhw,cd->bchw", found.embeddings, method.text)
    torch.testing.assert_close(window_scores(method, images)[0].scores, expected)


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
    windows = random_images(1)
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
