"""CutLER's detector: the published layout, the network against a literal reading of detectron2's, and the pasting."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from harness import ConfigurationError, ModelError
from methods.regions.cascade_rcnn import CascadeMaskRCNN, Detections, grid_anchors
from methods.regions.cutler import CutLER, network_size, network_state, paste, published_names, read_tensors, resize
from methods.regions.cutler_saliency import CutLERSaliency

Layout = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Layout:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def layout() -> Layout:
    """Names and shapes that detectron2 saves for CutLER's configuration, without counters of the normalisation."""
    shapes: Layout = {"backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7)}
    shapes |= norm("backbone.bottom_up.stem.conv1.norm", 64)
    before = 64
    for stage, blocks, inner in ((2, 3, 64), (3, 4, 128), (4, 6, 256), (5, 3, 512)):
        for block in range(blocks):
            name = f"backbone.bottom_up.res{stage}.{block}"
            convs = {"conv1": (inner, before, 1, 1), "conv2": (inner, inner, 3, 3), "conv3": (4 * inner, inner, 1, 1)}
            if block == 0:
                convs["shortcut"] = (4 * inner, before, 1, 1)
            for conv, shape in convs.items():
                shapes |= {f"{name}.{conv}.weight": shape} | norm(f"{name}.{conv}.norm", shape[0])
            before = 4 * inner
        for part, shape in (("lateral", (256, before, 1, 1)), ("output", (256, 256, 3, 3))):
            shapes |= {f"backbone.fpn_{part}{stage}.weight": shape} | norm(f"backbone.fpn_{part}{stage}.norm", 256)
    biased: Layout = {
        "proposal_generator.rpn_head.conv": (256, 256, 3, 3),
        "proposal_generator.rpn_head.objectness_logits": (3, 256, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas": (12, 256, 1, 1),
        **{f"roi_heads.mask_head.mask_fcn{i}": (256, 256, 3, 3) for i in (1, 2, 3, 4)},
        "roi_heads.mask_head.deconv": (256, 256, 2, 2),
        "roi_heads.mask_head.predictor": (1, 256, 1, 1),
    }
    for k in range(3):
        biased[f"roi_heads.box_head.{k}.fc1"] = (1024, 256 * 7 * 7)
        biased[f"roi_heads.box_head.{k}.fc2"] = (1024, 1024)
        biased[f"roi_heads.box_predictor.{k}.cls_score"] = (2, 1024)
        biased[f"roi_heads.box_predictor.{k}.bbox_pred"] = (4, 1024)
    for name, shape in biased.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}
    return shapes


def tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random weights that keep activations within bounds, and make scores and boxes differ."""
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    if name.endswith(("running_mean", "bias")):
        return 0.1 * torch.randn(shape, generator=generator)
    if name.endswith("norm.weight"):
        gain = 0.3 if "conv3" in name else 0.05 if "fpn_output" in name else 1.0
        return gain * (torch.rand(shape, generator=generator) + 0.5)
    gains = {"anchor_deltas": 0.3, "cls_score": 2.0, "bbox_pred": 3.0, "predictor.weight": 3.0}
    gain = next((value for part, value in gains.items() if part in name), 1.0)
    return gain * torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # What half precision can hold, so that the file is small.
    return {name: tensor(name, shape, generator).half().float() for name, shape in layout().items()}


@pytest.fixture(scope="module")
def checkpoint(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cutler") / "cutler.pth"
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7)
        for name in published
        if name.endswith("running_var")
    }
    state = {name: value.half() for name, value in published.items()} | counters
    torch.save({"model": state, "iteration": 3, "scheduler": {"base_lrs": [0.01]}}, path)
    return path


@pytest.fixture(scope="module")
def cutler(checkpoint: Path) -> CutLER:
    torch.set_num_threads(1)
    model = CutLER(str(checkpoint), score=0.95, size=64)
    model.load()
    return model


def noise_image(height: int = 60, width: int = 80, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (3, height // 10, width // 10), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(10, 1).repeat_interleave(10, 2).contiguous()


def test_every_tensor_of_the_network_has_one_published_name(cutler: CutLER, published: dict[str, Tensor]) -> None:
    state = cutler.network.state_dict()
    names = published_names(state)
    assert set(names) == set(state)
    assert sorted(names.values()) == sorted([*layout(), "pixel_mean", "pixel_std"])
    assert all(torch.equal(state[ours], published[names[ours]]) for ours in state if not ours.startswith("pixel"))
    assert state["pixel_mean"].flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert {name.split(".")[0] for name in cutler.state_dict()} == {"network"}


def test_tensors_missing_too_many_or_of_another_shape_are_one_sentence() -> None:
    with torch.device("meta"):
        ours = CascadeMaskRCNN().state_dict()
        theirs = {name: torch.empty(shape) for name, shape in layout().items()}
    path = Path("some.pth")
    assert set(network_state({**theirs, "pixel_mean": torch.zeros(3)}, ours, path)) == set(ours)
    with pytest.raises(ModelError, match=r"some.pth' lacks 'roi_heads.box_head.0.fc1.bias' and 11 more; .*_final.pth$"):
        network_state({name: t for name, t in theirs.items() if "box_head" not in name}, ours, path)
    with pytest.raises(ModelError, match=r"has 'roi_heads.box_head.0.conv1.weight', which this network has not"):
        network_state({**theirs, "roi_heads.box_head.0.conv1.weight": torch.empty(1)}, ours, path)
    classes = {"roi_heads.box_predictor.1.cls_score.weight": torch.empty(81, 1024)}
    with pytest.raises(ModelError, match=r"box_predictor.1.cls_score.weight has the shape \(81, 1024\), not \(2, 1024"):
        network_state({**theirs, **classes}, ours, path)


def test_half_precision_and_another_normalisation_are_taken_from_the_file() -> None:
    with torch.device("meta"):
        ours = CascadeMaskRCNN().state_dict()
        theirs = {name: torch.empty(shape, dtype=torch.float16) for name, shape in layout().items()}
    state = network_state({**theirs, "pixel_mean": torch.tensor([1.0, 2.0, 3.0])}, ours, Path("some.pth"))
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state["pixel_mean"].tolist() == [[[1.0]], [[2.0]], [[3.0]]]


class Oracle:
    """The network read literally from detectron2's, by the published names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        x = F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), stride, weight.shape[-1] // 2)
        if f"{name}.norm.weight" not in self.tensors:
            return x
        mean, var, scale, bias = (
            self.tensors[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias, eps=1e-5)

    def features(self, image: Tensor) -> list[Tensor]:
        mean, std = torch.tensor([123.675, 116.280, 103.530]), torch.tensor([58.395, 57.120, 57.375])
        x = (image - mean[:, None, None]) / std[:, None, None]
        padded = torch.zeros(1, 3, -(-image.shape[1] // 32) * 32, -(-image.shape[2] // 32) * 32)
        padded[0, :, : image.shape[1], : image.shape[2]] = x
        x = F.max_pool2d(self.conv(padded, "backbone.bottom_up.stem.conv1", 2).relu(), 3, 2, 1)
        found = []
        for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
            for block in range(blocks):
                name, stride = f"backbone.bottom_up.res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
                y = self.conv(self.conv(x, f"{name}.conv1").relu(), f"{name}.conv2", stride).relu()
                shortcut = self.conv(x, f"{name}.shortcut", stride) if block == 0 else x
                x = (self.conv(y, f"{name}.conv3") + shortcut).relu()
            found.append(x)
        inner: Tensor | None = None
        levels: list[Tensor] = []
        for stage in (5, 4, 3, 2):
            lateral = self.conv(found[stage - 2], f"backbone.fpn_lateral{stage}")
            inner = lateral if inner is None else lateral + inner.repeat_interleave(2, 2).repeat_interleave(2, 3)
            levels.insert(0, self.conv(inner, f"backbone.fpn_output{stage}"))
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def proposals(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        found = []
        for level, feature in enumerate(features):
            hidden = self.conv(feature, "proposal_generator.rpn_head.conv").relu()
            logits = self.conv(hidden, "proposal_generator.rpn_head.objectness_logits")[0]
            deltas = self.conv(hidden, "proposal_generator.rpn_head.anchor_deltas")[0]
            here = []
            for a, ratio in enumerate((0.5, 1.0, 2.0)):
                side = 32 * 2**level
                w, h = side / ratio**0.5, side * ratio**0.5
                for i in range(feature.shape[2]):
                    for j in range(feature.shape[3]):
                        dx, dy, dw, dh = deltas[4 * a : 4 * a + 4, i, j].tolist()
                        box = moved((j * 4 * 2**level, i * 4 * 2**level, w, h), (dx, dy, dw, dh), size)
                        here.append((logits[a, i, j].item(), level, box))
            found += sorted(here, reverse=True)[:1000]
        kept: list[tuple[float, int, tuple[float, ...]]] = []
        for logit, level, box in sorted(found, reverse=True):
            if box[2] <= box[0] or box[3] <= box[1]:
                continue
            rivals = torch.tensor([other for _, k, other in kept if k == level]).reshape(-1, 4)
            if not (box_iou(torch.tensor([box]), rivals) > 0.65).any():
                kept.append((logit, level, box))
        return torch.tensor([box for _, _, box in kept[:1000]])

    def pool(self, features: list[Tensor], box: Tensor, side: int) -> Tensor:
        root = ((box[2] - box[0]) * (box[3] - box[1])).item() ** 0.5
        level = min(5, max(2, math.floor(4 + math.log2(root / 224 + 1e-8))))
        return roi_align(features[level - 2], [box[None]], side, 1 / 2**level, aligned=True)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"roi_heads.{name}.weight"], self.tensors[f"roi_heads.{name}.bias"])

    def score(self, features: list[Tensor], box: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
        scores = []
        for k, scale in enumerate((10, 20, 30)):
            hidden = self.linear(self.pool(features, box, 7).flatten(1), f"box_head.{k}.fc1").relu()
            hidden = self.linear(hidden, f"box_head.{k}.fc2").relu()
            foreground, background = self.linear(hidden, f"box_predictor.{k}.cls_score")[0].exp().tolist()
            scores.append(foreground / (foreground + background))
            dx, dy, dw, dh = self.linear(hidden, f"box_predictor.{k}.bbox_pred")[0].tolist()
            x0, y0, x1, y1 = box.tolist()
            anchor = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            box = torch.tensor(moved(anchor, (dx / scale, dy / scale, dw / (scale / 2), dh / (scale / 2)), size))
        return box, sum(scores) / 3

    def mask(self, features: list[Tensor], box: Tensor) -> Tensor:
        x = self.pool(features, box, 14)
        for i in (1, 2, 3, 4):
            x = self.conv(x, f"roi_heads.mask_head.mask_fcn{i}").relu()
        weight, bias = (self.tensors[f"roi_heads.mask_head.deconv.{part}"] for part in ("weight", "bias"))
        x = F.conv_transpose2d(x, weight, bias, stride=2).relu()
        return self.conv(x, "roi_heads.mask_head.predictor").sigmoid()[0, 0]


def moved(
    anchor: tuple[float, float, float, float], deltas: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box (centre x, centre y, width, height), moved, with its corners clipped to an image of (h, w)."""
    (x, y, w, h), (dx, dy, dw, dh) = anchor, deltas
    x, y = x + dx * w, y + dy * h
    w, h = w * math.exp(min(dw, math.log(1000 / 16))), h * math.exp(min(dh, math.log(1000 / 16)))
    x0, x1 = (min(max(side, 0.0), float(size[1])) for side in (x - w / 2, x + w / 2))
    y0, y1 = (min(max(side, 0.0), float(size[0])) for side in (y - h / 2, y + h / 2))
    return x0, y0, x1, y1


@torch.no_grad()
def test_the_network_computes_what_detectron2_does(cutler: CutLER, published: dict[str, Tensor]) -> None:
    oracle, image = Oracle(published), noise_image(50, 70).float()
    # Larger than the image, so that not all large boxes are clipped to the whole of it.
    size = 600, 600
    features = oracle.features(image)
    for ours, theirs in zip(cutler.network.features(image), features, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    proposals = oracle.proposals(features, size)
    assert len(proposals) > 100
    found = cutler.network.proposals(features, size)
    assert found.shape == proposals.shape
    assert torch.allclose(found, proposals, atol=1e-3)
    # Some of every size, so that each of the levels is pooled from.
    boxes = torch.cat([proposals[::9], torch.tensor([[0.0, 0, 500, 400], [3, 3, 900, 990], [5.5, 5.5, 5.5, 9]])])
    size = 1000, 1000
    expected = [oracle.score(features, box, size) for box in boxes]
    found, scores = cutler.network.cascade(features, boxes, size)
    assert torch.allclose(found, torch.stack([box for box, _ in expected]), atol=1e-2, rtol=1e-4)
    assert torch.allclose(scores, torch.tensor([score for _, score in expected]), atol=1e-4)
    detected = cutler.network(image, 0.95)
    features = cutler.network.features(image)
    masks = torch.stack([oracle.mask(features, box) for box in detected.boxes[:5]])
    assert torch.allclose(detected.masks[:5], masks, atol=1e-4)
    assert 0.1 < (masks > 0.5).float().mean() < 0.9


def test_anchors_are_neither_rounded_nor_shifted() -> None:
    anchors = grid_anchors((2, 3), 16, 128).reshape(2, 3, 3, 4)
    wide = anchors[1, 2, 0]
    assert wide.tolist() == pytest.approx([32 - 90.50967, 16 - 45.25483, 32 + 90.50967, 16 + 45.25483], abs=1e-4)
    assert anchors[0, 1, 1].tolist() == [16 - 64, -64, 16 + 64, 64]


@torch.no_grad()
def test_detections_score_more_than_the_threshold_and_do_not_overlap(cutler: CutLER) -> None:
    image = noise_image().float()
    everything = cutler.network(image, 0.0)
    assert len(everything.scores) == 100
    assert (everything.scores.diff() <= 0).all()
    assert box_iou(everything.boxes, everything.boxes).triu(1).max() <= 0.5
    threshold = everything.scores[10].item()
    some = cutler.network(image, threshold)
    assert torch.equal(some.scores, everything.scores[everything.scores > threshold])
    assert len(some.scores) <= 10
    assert torch.equal(some.boxes, everything.boxes[: len(some.boxes)])
    assert len(cutler.network(image, 1.0).masks) == 0


def test_masks_are_bool_of_the_images_size_and_none_is_empty(cutler: CutLER, checkpoint: Path) -> None:
    masks = cutler.masks(noise_image())
    assert masks.dtype == torch.bool
    assert masks.shape[1:] == (60, 80)
    assert 0 < len(masks) <= 100
    assert masks.flatten(1).any(dim=1).all()
    none = CutLER(str(checkpoint), score=1.0, size=64)
    none.network = cutler.network
    assert none.masks(noise_image()).shape == (0, 60, 80)


def test_an_image_does_not_depend_on_those_before_it(cutler: CutLER) -> None:
    first = cutler.masks(noise_image())
    other = cutler.masks(noise_image(90, 40, seed=2))
    assert torch.equal(cutler.masks(noise_image()), first)
    assert other.shape[1:] == (90, 40)


def test_masks_are_pasted_where_their_boxes_are() -> None:
    seen, image = torch.zeros(3, 200, 400), torch.zeros(3, 50, 100, dtype=torch.uint8)
    left = torch.zeros(28, 28)
    left[:, :14] = 1.0
    boxes = torch.tensor([[40, 80, 120, 120], [40, 80, 120, 120], [360, 180, 440, 240], [80, 80, 80, 120]]).float()
    masks = torch.stack([torch.ones(28, 28), left, torch.ones(28, 28), torch.ones(28, 28)])
    pasted = paste(Detections(boxes, torch.ones(4), masks), seen, image)
    expected = torch.zeros(3, 50, 100, dtype=torch.bool)
    expected[0, 20:30, 10:30] = True
    expected[1, 20:30, 10:20] = True
    expected[2, 45:50, 90:100] = True
    assert torch.equal(pasted, expected)


def test_a_mask_below_one_half_is_dropped() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    boxes, masks = (
        torch.tensor([[10.0, 10, 20, 20]]).repeat(2, 1),
        torch.stack([torch.full((28, 28), v) for v in (0.49, 0.6)]),
    )
    assert paste(Detections(boxes, torch.ones(2), masks), image, image).shape == (1, 40, 40)


SIZES = {(512, 512): (800, 800), (375, 500): (800, 1067), (100, 300): (444, 1333), (1, 9000): (1, 1333)}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_the_size_that_the_network_sees(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(*size, 800, 1333) == expected


def test_images_are_resized_as_in_cutlers_demo(cutler: CutLER, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def detect(image: Tensor, threshold: float) -> Detections:
        seen.append(image)
        return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 28, 28))

    monkeypatch.setattr(cutler.network, "forward", detect)
    cutler.masks(noise_image(100, 150))
    pillow = Image.fromarray(noise_image(100, 150).permute(1, 2, 0).numpy()).resize((96, 64), Image.Resampling.BILINEAR)
    assert torch.equal(seen[0], torch.from_numpy(np.array(pillow)).permute(2, 0, 1).float())


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_a_checkpoint_that_could_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"model": {"weight": torch.zeros(2)}, "hook": Payload(marker)}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil.pth' is damaged or holds more than tensors, and was not opened"):
        CutLER(str(tmp_path / "evil.pth")).load()
    assert not marker.exists()
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Payload(marker)}, protocol=2))
    with pytest.raises(ModelError, match=r"evil.pkl' is"):
        CutLER(str(tmp_path / "evil.pkl")).load()
    assert not marker.exists()


def test_a_file_of_numpy_arrays_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": np.ones((2, 3), np.float32), "b": torch.zeros(2, 2).T}}, tmp_path / "numpy.pth")
    with pytest.raises(ModelError, match="holds more than tensors, and was not opened"):
        read_tensors(tmp_path / "numpy.pth")


def test_both_formats_and_both_layouts_are_read(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": state, "iteration": 3}, tmp_path / "nested.pth")
    save_file(state, tmp_path / "file.safetensors")
    for name in ("bare.pth", "nested.pth", "file.safetensors"):
        found = read_tensors(tmp_path / name)
        assert set(found) == set(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_wrong_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no CutLER checkpoint at .*missing.pth'; the published one is http"):
        CutLER(str(tmp_path / "missing.pth")).load()
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(ModelError, match=f"{name}' is"):
            CutLER(str(tmp_path / name)).load()
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"model": {"a": 1.0}}, tmp_path / "number.pth")
    for name in ("list.pth", "number.pth"):
        with pytest.raises(ModelError, match="holds no dictionary of tensors"):
            CutLER(str(tmp_path / name)).load()


def test_settings_name_all_that_determines_the_masks(cutler: CutLER) -> None:
    assert cutler.settings() == {"class": "CutLER", "score": 0.95, "size": 64, "max_size": 1333}
    for wrong in ({"score": 1.5}, {"size": 0}, {"size": 800, "max_size": 700}):
        with pytest.raises(ConfigurationError, match="CutLER: "):
            CutLER("x.pth", **wrong)


@pytest.mark.slow
def test_a_full_size_image(checkpoint: Path) -> None:
    model = CutLER(str(checkpoint))
    model.load()
    masks = model.masks(noise_image(510, 510))
    assert masks.shape[1:] == (510, 510)
    assert sum(p.numel() for p in model.parameters()) > 70e6


@torch.inference_mode()
def test_saliency_adds_masks_weighted_by_their_scores(cutler: CutLER, checkpoint: Path) -> None:
    image = noise_image()
    saliency = CutLERSaliency(cutler)
    found = cutler.network(resize(image, network_size(60, 80, cutler.size, cutler.max_size)).float(), cutler.score)
    total = torch.zeros(60, 80)
    for mask, score in zip(
        paste(found, resize(image, network_size(60, 80, 64, 1333)), image), found.scores, strict=True
    ):
        total[mask] += score
    assert total.max() > 0
    torch.testing.assert_close(saliency(image), total / total.max())
    nothing = CutLERSaliency(CutLER(str(checkpoint), score=1.0, size=64))
    nothing.load()
    assert not nothing(image).any()
    assert saliency.settings()["detector"] == cutler.settings()
