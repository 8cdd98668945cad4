"""CutLER (Wang et al., Cut and Learn for Unsupervised Object Detection and Instance Segmentation, CVPR 2023).

Its detector, a class-agnostic Cascade Mask R-CNN trained on MaskCut's masks and then on its own: Γ of OVDiff's main
results. Reference implementations: facebookresearch/CutLER, ``cutler/`` (its ``model_zoo/configs/CutLER-ImageNet/
cascade_mask_rcnn_R_50_FPN.yaml``) on facebookresearch/detectron2; karazijal/sdov, ``utils/cutler.py``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from harness.method.part import Requirement, required_file
from harness.system.errors import ConfigurationError, ModelError
from methods.backbones import hub
from methods.regions.base import Regions
from methods.regions.cascade_rcnn import PIXEL_MEAN, PIXEL_STD, CascadeMaskRCNN, Detections

PUBLISHED = "http://dl.fbaipublicfiles.com/cutler/checkpoints/cutler_cascade_final.pth"
# What a published file may hold without our needing it: counters of the normalisation, and old anchors.
UNUSED = (".num_batches_tracked", ".anchor_generator.cell_anchors.")


class CutLER(Regions):
    """Objects in an image by CutLER's published detector, best first; masks may overlap.

    The image is resized by Pillow's bilinear filter as in CutLER's demo. OVDiff's release resizes floats, which at
    512x512 differs by rounding alone.

    Args:
        weights: The published ``cutler_cascade_final.pth``, or a ``.safetensors`` file with the same keys.
        score: Masks score more than this; 0.35 in CutLER's demo and in OVDiff's release.
        size: The shorter side that the network sees, in pixels.
        max_size: The most that the longer side may have.
    """

    not_identity = frozenset({"weights"})

    def __init__(self, weights: str, score: float = 0.35, size: int = 800, max_size: int = 1333) -> None:
        super().__init__()
        if size < 1 or max_size < size:
            raise ConfigurationError(
                f"CutLER: size is at least 1 and max_size at least size, not {size} and {max_size}"
            )
        if not 0 <= score <= 1:
            raise ConfigurationError(f"CutLER: score lies between 0 and 1, not {score}")
        self.path = Path(weights)
        self.score = score
        self.size, self.max_size = size, max_size

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        yield required_file(self.arguments["weights"], f"{flag}.weights")

    def build(self) -> None:
        """Build the detector from its file.

        Raises:
            ModelError: The file is missing, holds more than tensors, or is another network's.
        """
        tensors = read_tensors(self.path)
        # Without memory, and without drawing 72 million numbers that are replaced at once.
        with torch.device("meta"):
            network = CascadeMaskRCNN()
        network.load_state_dict(network_state(tensors, network.state_dict(), self.path), assign=True)
        self.network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [M, H, W] bool with M at most 100."""
        seen = resize(image, network_size(int(image.shape[1]), int(image.shape[2]), self.size, self.max_size))
        return paste(self.network(seen.float(), self.score), seen, image)


def network_size(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """(h, w) with the shorter side ``size``, or less where the longer one would exceed ``max_size``."""
    scale = size / min(height, width)
    if scale * max(height, width) > max_size:
        scale = max_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[3, H, W] uint8 -> [3, h, w] uint8 by Pillow's bilinear filter, on the image's device."""
    pil_image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    resized = np.array(pil_image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous().to(image.device)


def paste(found: Detections, seen: Tensor, image: Tensor) -> Tensor:
    """Put masks where their boxes are.

    Args:
        found: Detections in ``seen``.
        seen: [3, h, w], what the network saw.
        image: [3, H, W], the image it was made of.

    Returns:
        [M', H, W] bool on the image's device, those not empty: a pixel belongs to a mask whose bilinear value at the
        pixel's centre is at least one half.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    scale = found.boxes.new_tensor([width / seen.shape[2], height / seen.shape[1]]).repeat(2)
    boxes = clip_boxes_to_image(found.boxes * scale, (height, width))
    pasted = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=image.device)
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    for mask, (x0, y0, x1, y1), target in zip(found.masks, boxes, pasted, strict=True):
        if x1 > x0 and y1 > y0:
            across, down = (x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1
            grid = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width)], dim=-1)
            target.copy_(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5)
    return pasted[pasted.flatten(1).any(dim=1)]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by detectron2's names, from safetensors or a ``.pth`` read with ``weights_only``.

    detectron2 saves ``{"model": state, ...}`` of torch tensors, numbers, lists and dictionaries, all of which
    ``weights_only`` reads. It refuses NumPy's arrays (of detectron2's ``.pkl`` files) and every other object.

    Raises:
        ModelError: The file is missing, damaged or holds more than tensors.
    """
    try:
        content = hub.read_checkpoint(path, "CutLER checkpoint", PUBLISHED)
    except ModelError:
        raise
    except UnpicklingError as error:
        raise ModelError(
            f"'{path}' is damaged or holds more than tensors, and was not opened because such a file can run code; "
            "its tensors saved as safetensors, by detectron2's names, are read"
        ) from error
    except Exception as error:
        raise hub.not_a_checkpoint(path, "checkpoint", error) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"'{path}' is not a checkpoint of detectron2: it holds no dictionary of tensors")
    return dict(state)


def network_state(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by the names of ``CascadeMaskRCNN``, float32.

    Args:
        tensors: By detectron2's names; ``pixel_mean`` and ``pixel_std`` may be missing, as in files of newer versions.
        ours: The state of a ``CascadeMaskRCNN``, for names and shapes.
        path: Of the file, for errors.

    Raises:
        ModelError: A tensor is missing, too many or of another shape.
    """
    normal = {"pixel_mean": torch.tensor(PIXEL_MEAN), "pixel_std": torch.tensor(PIXEL_STD)}
    given = {name: t for name, t in {**normal, **tensors}.items() if not any(part in name for part in UNUSED)}
    given |= {name: given[name].reshape(-1, 1, 1) for name in normal}
    names = published_names(ours)
    hint = "; CutLER takes its Cascade Mask R-CNN, cutler_cascade_final.pth"
    if missing := sorted(set(names.values()) - set(given)):
        raise ModelError(f"'{path}' lacks {_some(missing)}{hint}")
    if surplus := sorted(set(given) - set(names.values())):
        raise ModelError(f"'{path}' has {_some(surplus)}, which this network has not{hint}")
    for name, theirs in names.items():
        if given[theirs].shape != ours[name].shape:
            found, expected = tuple(given[theirs].shape), tuple(ours[name].shape)
            raise ModelError(f"'{path}': {theirs} has the shape {found}, not {expected}{hint}")
    return {name: given[theirs].float() for name, theirs in names.items()}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def published_names(ours: Mapping[str, object]) -> dict[str, str]:
    """The name that detectron2 gives to each tensor of ``CascadeMaskRCNN``."""
    modules = published_modules()
    names = {}
    for name in ours:
        module, _, leaf = name.rpartition(".")
        names[name] = f"{modules[module]}.{leaf}" if module else name
    return names


def published_modules() -> dict[str, str]:
    """Modules of ``CascadeMaskRCNN`` that hold tensors -> detectron2's names for them."""
    bottom_up, heads = "backbone.bottom_up", "roi_heads"
    names = {"backbone.body.conv1": f"{bottom_up}.stem.conv1", "backbone.body.bn1": f"{bottom_up}.stem.conv1.norm"}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            ours, theirs = f"backbone.body.layer{stage}.{block}", f"{bottom_up}.res{stage + 1}.{block}"
            for i in (1, 2, 3):
                names |= {f"{ours}.conv{i}": f"{theirs}.conv{i}", f"{ours}.bn{i}": f"{theirs}.conv{i}.norm"}
        first = f"backbone.body.layer{stage}.0.downsample"
        shortcut = f"{bottom_up}.res{stage + 1}.0.shortcut"
        names |= {f"{first}.0": shortcut, f"{first}.1": f"{shortcut}.norm"}
    for i in range(4):
        for ours, theirs in (("inner_blocks", "fpn_lateral"), ("layer_blocks", "fpn_output")):
            names[f"backbone.fpn.{ours}.{i}.0"] = f"backbone.{theirs}{i + 2}"
            names[f"backbone.fpn.{ours}.{i}.1"] = f"backbone.{theirs}{i + 2}.norm"
        names[f"mask_head.{i}.0"] = f"{heads}.mask_head.mask_fcn{i + 1}"
    for ours, theirs in (("conv.0.0", "conv"), ("cls_logits", "objectness_logits"), ("bbox_pred", "anchor_deltas")):
        names[f"rpn.{ours}"] = f"proposal_generator.rpn_head.{theirs}"
    for k in range(3):
        names |= {
            f"stages.{k}.head.fc6": f"{heads}.box_head.{k}.fc1",
            f"stages.{k}.head.fc7": f"{heads}.box_head.{k}.fc2",
        }
        names |= {f"stages.{k}.{part}": f"{heads}.box_predictor.{k}.{part}" for part in ("cls_score", "bbox_pred")}
    names["mask_predictor.conv5_mask"] = f"{heads}.mask_head.deconv"
    names["mask_predictor.mask_fcn_logits"] = f"{heads}.mask_head.predictor"
    return names
