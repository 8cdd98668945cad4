"""Candidate classes: distances and the "above average" rule by hand, and the text encoders of paper and release."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from harness import ConfigurationError, ModelError
from methods.backbones.image_text import OpenCLIP
from methods.freeseg_diff.candidates import (
    CandidateFilter,
    DiffusionTextEncoder,
    TextEncoder,
    distances,
    nearest_classes,
)
from miniature.training import WEIGHTS


class Vectors(TextEncoder):
    """Vectors that are known; notes what it is asked."""

    def __init__(self, **known: Sequence[float]) -> None:
        super().__init__()
        self.known = known
        self.asked: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked += texts
        return torch.tensor([self.known[text.replace(" ", "_")] for text in texts], dtype=torch.float32)


def test_distances_are_cosine_and_pearson() -> None:
    rng = np.random.default_rng(0)
    keywords, classes = rng.normal(1, 1, (3, 7)), rng.normal(1, 1, (4, 7))
    for kind in ("cosine", "correlation"):
        found = distances(torch.from_numpy(keywords), torch.from_numpy(classes), kind)
        for k, keyword in enumerate(keywords):
            for c, other in enumerate(classes):
                if kind == "cosine":
                    expected = 1 - keyword @ other / np.linalg.norm(keyword) / np.linalg.norm(other)
                else:
                    expected = 1 - np.corrcoef(keyword, other)[0, 1]
                assert found[k, c] == pytest.approx(expected)


def test_a_keyword_beyond_the_average_distance_is_ignored_in_both_readings() -> None:
    # Nearest distances 0.1, 0.3 and 0.6: mean 0.333. All distances: mean 0.533.
    distance = torch.tensor([[0.1, 0.9, 0.8], [0.7, 0.3, 0.5], [0.6, 0.7, 0.2 + 0.4]])
    assert nearest_classes(distance, "keywords") == [0, 1]
    assert nearest_classes(distance, "classes") == [0, 1]
    # A third keyword between the two bounds: the release ignores it, the paper does not.
    distance[2] = torch.tensor([0.7, 0.8, 0.5])
    assert nearest_classes(distance, "keywords") == [0, 1]
    assert nearest_classes(distance, "classes") == [0, 1, 2]


@pytest.mark.parametrize("average", ["classes", "keywords"])
def test_one_keyword_always_survives_and_equal_ones_all_do(average: str) -> None:
    assert nearest_classes(torch.tensor([[0.9, 0.8]]), average) == [1]
    alike = torch.tensor([[0.3, 0.3], [0.3, 0.3], [0.3, 0.3]])
    assert nearest_classes(alike, average) == [0]


def test_keywords_become_their_nearest_classes() -> None:
    encoder = Vectors(couch=(1, 0.1), sofa=(1, 0), cat=(0, 1), kitten=(0.1, 1), photo=(-1, -1))
    chosen = CandidateFilter(encoder)
    chosen.load()
    classes = chosen.prepare(["sofa", "cat"], clip=None)
    assert chosen(["couch", "couch"], classes, None) == [0]
    assert chosen(["kitten", "couch"], classes, None) == [0, 1]
    assert chosen([], classes, None) == []
    # Far from both classes, and so no word for the sofa.
    assert chosen(["photo", "kitten"], classes, None) == [1]


def test_templates_and_split_words_are_those_of_the_release() -> None:
    encoder = Vectors(A_photo_of_dining=(1, 0), A_photo_of_table=(0, 1), A_photo_of_cat=(1, -1), desk=(1, 1))
    chosen = CandidateFilter(encoder, class_template="A photo of {}", split_words=True)
    classes = chosen.prepare(["dining table", "cat"], clip=None)
    torch.testing.assert_close(classes, torch.tensor([[0.5, 0.5], [1.0, -1.0]]))
    assert chosen(["desk"], classes, None) == [0]
    assert encoder.asked == ["A photo of dining", "A photo of table", "A photo of cat", "desk"]


@torch.inference_mode()
def test_without_an_encoder_it_is_the_clip_that_names() -> None:
    clip = OpenCLIP("local-dir:miniature/weights/clip")
    clip.load()
    chosen = CandidateFilter()
    chosen.load()
    names = ["cat", "tree", "boat", "sun"]
    classes = chosen.prepare(names, clip)
    assert not list(chosen.parameters())
    assert chosen(["tree", "cat"], classes, clip) == [0, 1]
    expected = distances(clip.encode_text(["mushroom"]), clip.encode_text(names)).argmin().item()
    assert chosen(["mushroom"], classes, clip) == [expected]


@torch.inference_mode()
def test_diffusion_text_encoder_is_the_mean_over_all_positions(sd_pipeline: StableDiffusionPipeline) -> None:
    encoder = DiffusionTextEncoder(str(WEIGHTS / "diffusion"))
    encoder.load()
    # The pipeline that somebody holds is not loaded again.
    assert encoder.text_encoder is sd_pipeline.text_encoder
    found = encoder.encode_text(["cat", "a red boat"])
    for text, vector in zip(("cat", "a red boat"), found, strict=True):
        ids = sd_pipeline.tokenizer(text, padding="max_length", max_length=32, return_tensors="pt").input_ids
        assert ids.shape == (1, 32)
        states = sd_pipeline.text_encoder(ids).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert found.dtype == torch.float32


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigurationError, match="exactly one"):
        CandidateFilter(class_template="a photo")
    with pytest.raises(ModelError, match="model_index"):
        DiffusionTextEncoder("./nowhere").load()
