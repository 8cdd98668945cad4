"""FreeSeg-Diff with Stable Diffusion 1.5, BLIP-base and CLIP ViT-B/32 from their configurations, random weights."""

from pathlib import Path

import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from harness import Protocol, Sample, Vocabulary
from harness.artifacts.store import ArtifactStore
from methods.backbones import DiffusionFeatures, OpenCLIP
from methods.backbones.captioner import HubCaptioner
from methods.freeseg_diff.method import FreeSegDiff
from methods.refinement import PAMR
from methods.regions.feature_clusters import FeatureClusters
from methods.support.nouns import RuleNouns
from miniature.train_blip import build_processor
from tests.methods.test_full_size_diffusion import build

pytestmark = pytest.mark.slow

RESBLOCKS = (
    "down_blocks.2.resnets.0",
    "down_blocks.2.resnets.1",
    "up_blocks.1.resnets.0",
    "up_blocks.1.resnets.1",
    "up_blocks.1.resnets.2",
)
ATTENTIONS = tuple(name.replace("resnets", "attentions") for name in RESBLOCKS)


class LoadedBlip(HubCaptioner):
    def build(self) -> None:
        """Salesforce/blip-image-captioning-base from its published configuration."""
        torch.manual_seed(0)
        config = BlipConfig(text_config={"num_attention_heads": 12, "projection_dim": 768})
        tokenizer = build_processor().tokenizer
        self.adopt(BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessor(), tokenizer))


class LoadedFeatures(DiffusionFeatures):
    def build(self) -> None:
        self.adopt(build())


@torch.inference_mode()
def test_one_image_is_captioned_clustered_named_and_refined(tmp_path: Path) -> None:
    extractor = LoadedFeatures(
        layers=RESBLOCKS,
        kind="output",
        attention_layers=ATTENTIONS,
        attention="classes",
        timestep=0,
        noise=False,
        grid=32,
    )
    captioner = LoadedBlip()
    method = FreeSegDiff(
        FeatureClusters(extractor, num_clusters=4),
        OpenCLIP("ViT-B-32"),
        captioner,
        RuleNouns(["dog", "bus", *(chr(97 + n) for n in range(26))]),
        refiner=PAMR(),
        relative=True,
    )
    method.store = ArtifactStore(tmp_path)
    method.make_ready(
        Vocabulary.from_class_names("dog, potted plant, bus"), Protocol("test", resize="none", window=None)
    )
    method.prepare()
    # Five res-blocks of 1280 channels, and three classes in eight heads of five attention blocks.
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 375, 500), generator=random, dtype=torch.uint8)
    features = extractor.class_features(image[None], ["dog", "potted plant", "bus"])
    assert features.shape == (1, 5 * 1280 + 5 * 8 * 3, 32, 32)
    assert features.isfinite().all()
    assert sum(weight.numel() for weight in captioner.parameters()) > 220e6
    sample = Sample(0, "x", image, image, None, (375, 500))
    labels = method.predict_image(sample)
    assert labels.shape == (375, 500)
    assert labels.max() < 4
    # The caption of so many random words was kept, and the image comes out the same.
    assert len(list(tmp_path.rglob("manifest.json"))) == 1
    assert torch.equal(method.predict_image(sample), labels)
