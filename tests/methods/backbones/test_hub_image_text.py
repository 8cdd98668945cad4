"""Image-text models of transformers: what is wrong with a folder is one sentence."""

from pathlib import Path
from typing import Any

import pytest

from harness import ModelError
from methods.backbones.hub_clip_seg import HubCLIPSeg
from methods.backbones.hub_group_vit import HubGroupViT


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
