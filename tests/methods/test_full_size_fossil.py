"""FOSSIL with its own backbones, DINOv2 ViT-L/14 at 518 and DINO ViT-B/8 at 480, with random weights."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import Dinov2Config, ViTConfig

from harness import ArtifactStore, Protocol, Sample, Vocabulary
from harness.artifacts.precompute import precompute
from methods.backbones import DenseFeatures, DiffusersTextToImage, HubViT, OpenCLIP
from methods.fossil.captions import Captions
from methods.fossil.collection import Collection
from methods.fossil.method import FOSSIL
from methods.regions import OpenCut
from methods.support import Attribution
from methods.support.nouns import RuleNouns

pytestmark = pytest.mark.slow


class TinyGenerator(DiffusersTextToImage):
    """Miniature's, which is there already."""

    def build(self) -> None:
        assert self.pipeline is not None


@torch.inference_mode()
def test_dinov2_vitl14_and_dino_vitb8_segment_one_image(
    tmp_path: Path, sd_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published configurations.
    large = Dinov2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518, mlp_ratio=4
    )
    large.save_pretrained(tmp_path / "dinov2")
    base = ViTConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, patch_size=8
    )
    base.save_pretrained(tmp_path / "dino")
    (tmp_path / "captions.txt").write_text("a cat and a boat on the grass\n")
    generator = TinyGenerator(steps=2, guidance=1.0)
    generator.adopt(sd_pipeline)
    method = FOSSIL(
        generator,
        DenseFeatures(HubViT(str(tmp_path / "dinov2"), random_weights=True), size=518),
        OpenCLIP("local-dir:miniature/weights/clip"),
        Collection(Captions(tmp_path / "captions.txt"), RuleNouns(["cat", "grass", "boat"])),
        Attribution("daam"),
        OpenCut(HubViT(str(tmp_path / "dino"), random_weights=True), taus=(0.15, 0.6)),
        num_references=3,
        num_prototypes=2,
    )
    protocol = Protocol("tcl", resize="none", window=448, stride=224)
    method.make_ready(Vocabulary(("cat", "grass", "boat")), protocol)
    assert sum(p.numel() for p in method.extractor.parameters()) > 300e6
    seen, features = [], method.extractor.features

    def noted(images: torch.Tensor) -> torch.Tensor:
        found = features(images)
        seen.extend([tuple(found.shape[1:])] * len(found))
        return found

    monkeypatch.setattr(method.extractor, "features", noted)
    assert method.regions is not None
    assert sum(p.numel() for p in method.regions.parameters()) > 85e6
    method.store = ArtifactStore(tmp_path / "store")
    precompute(method, method.store)
    method.prepare()
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), (448, 448), mode="bicubic")[0]
    image = (pixels.clamp(0, 1) * 255).to(torch.uint8)
    labels = method.predict_image(Sample(0, "x", image, image, None, (375, 400)))
    assert labels.shape == (375, 400)
    assert labels.max() < 3
    (entry,) = [method.store.load(item.key) for item in method._texts.references.items()]
    assert entry["visual"].shape == (3, 1024)
    assert seen == [(1024, 37, 37)] * 2
