"""The contract of a method: ``predict_step`` is written once, here, and sealed; a paper fills in a few hooks."""

from __future__ import annotations

import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from harness.artifacts.stage import PrecomputeReport, Stage
from harness.artifacts.store import ArtifactStore
from harness.data.datamodule import Sample
from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.method.part import Part, Requirement, identity_of, parts_of, required_by, unique
from harness.method.refiner import Refiner
from harness.method.stitching import Stitcher, resize_labels, upsample
from harness.method.windows import Box, ScoreMap, batches, cut, window_grid
from harness.system.configured import Configured, as_json
from harness.system.errors import ConfigurationError, DataError
from harness.system.provenance import hash_weights

SEALED = ("predict_step", "predict_image")


class Prediction(NamedTuple):
    """One image's label map.

    Attributes:
        sample: The sample it belongs to.
        labels: [H', W'] uint8 class indices, on the method's device; None when the sample could not be read.
    """

    sample: Sample
    labels: Tensor | None


class Evidence(NamedTuple):
    """An image region that decided a class of a segmentation.

    Attributes:
        label: The class index that it decided.
        title: What it is and how much of the class it decided, for a person to read.
        image: [H, W, 3] uint8 RGB.
        region: [H, W] bool, the deciding part of ``image``.
    """

    label: int
    title: str
    image: np.ndarray
    region: np.ndarray


class SegmentationMethod(Configured, LightningModule):
    """A training-free open-vocabulary segmentation method.

    The life of a method: the constructor keeps settings and loads nothing; ``bind`` gives it vocabulary and protocol;
    ``load`` builds its frozen models from local files; what its ``stages`` need is computed once over all ranks, and
    ``adopt`` gets the bank that ``assemble`` put together; ``prepare`` runs once on the device, before the first image.

    Then two steps for every image. *Encode* is what the frozen models see: ``encode_image`` on the whole image, and
    ``encode`` on its windows, in batches. They depend on the settings in ``image_settings`` and ``encode_settings``
    alone, so that the engine encodes once for all configurations that agree in these. *Score* is all that is cheap:
    ``image_context`` decides what concerns the whole image, and ``score`` makes score maps of encoded windows, which
    are stitched, passed through ``fuse``, refined, and compared at the ground truth's size.

    A new method subclasses this and fills in ``encode`` and ``score``, and what else its paper needs.

    Args:
        window_batch: Windows of one image that go through the models at once.
        background_threshold: Constant score of the background class for methods that do not score it themselves
            (``scores_background`` false); needed only when the vocabulary has a background.

    Attributes:
        scores_background: Whether the score maps have a plane of the background, which is then refined like those of
            the classes; otherwise its score is ``background_threshold`` everywhere.
        score_floor: Lower scores count as this, at the size at which classes are compared; None leaves them.
        image_settings: The constructor arguments on which ``encode_image`` depends.
        encode_settings: Those on which ``encode`` and ``windows`` depend, with those of ``encode_image`` if ``encode``
            uses its result. Configurations of one pass that agree in these encode once; all others are free.
    """

    name: str = ""
    image_settings: ClassVar[frozenset[str]] = frozenset()
    encode_settings: ClassVar[frozenset[str]] = frozenset()
    scores_background: bool = False

    vocabulary: Vocabulary
    protocol: Protocol
    on_error: str = "stop"
    names_found: bool = False  # set by `ovseg segment` without classes: the vocabulary is what `find_names` found
    precomputed: PrecomputeReport = PrecomputeReport()
    _weights: dict[str, str] | None = None

    def __init__(self, window_batch: int = 8, background_threshold: float | None = None) -> None:
        super().__init__()
        if window_batch < 1:
            raise ConfigurationError("method: window_batch must be at least 1")
        self.window_batch = window_batch
        self.background_threshold = background_threshold
        self.score_floor: float | None = None
        self.refiner: Refiner | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Results and run directories need a name, also of a method whose author gave none.
        cls.name = cls.name or cls.__name__
        constructors = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        known = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
        if unknown := (cls.image_settings | cls.encode_settings) - known:
            raise TypeError(
                f"{cls.__name__}: {min(unknown)!r} is no constructor argument that encoding could depend on"
            )
        for name in SEALED:
            if name in cls.__dict__:
                raise TypeError(f"{cls.__name__} overrides {name}, which is the same for all methods: fill in a hook")

    def parts(self) -> list[Part]:
        """The parts among the constructor's arguments, in their order."""
        return list(parts_of(self.arguments))

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """What the method itself reads besides its parts; nothing is loaded.

        Args:
            flag: What the command line calls this method, for messages.
        """
        return ()

    @final
    def requires(self, flag: str = "--method") -> list[Requirement]:
        """What the method and all its parts read from this machine, each once; ``flag`` as in ``requirements``."""
        return unique([*self.requirements(flag), *required_by(self.arguments, flag)])

    def identity(self) -> dict[str, Any]:
        """Everything that determines what the method predicts: its settings, and its loaded parts' identities; JSON."""
        given = {name: identity_of(value) for name, value in self.identifying_arguments.items()}
        return {"class": type(self).__name__, **given}

    def bind(self, vocabulary: Vocabulary, protocol: Protocol) -> None:
        """Set what to segment and how.

        Raises:
            ConfigurationError: The vocabulary has a background that neither the method nor a threshold scores.
        """
        if vocabulary.background and not self.scores_background and self.background_threshold is None:
            raise ConfigurationError(
                f"the vocabulary has a background class, which {type(self).__name__} scores only by a constant: "
                "set method.background_threshold"
            )
        self.vocabulary = vocabulary
        self.protocol = protocol

    @cached_property
    def store(self) -> ArtifactStore:
        """Where what is made once lies; a command sets another."""
        return ArtifactStore()

    def load(self) -> None:
        """Load all parts, each once; a method without parts of its own kind builds its frozen models here.

        Raises:
            ModelError: Weights are not on this machine; the message says what to fetch.
        """
        for module in list(self.modules()):
            if isinstance(module, Part):
                module.load()

    def prepare(self) -> None:
        """Compute, once and on the device, what all images share, such as text embeddings."""

    def stages(self) -> Sequence[Stage]:
        """What has to be made once, over all ranks, before the first image; a later stage reads the earlier ones."""
        return ()

    def assemble(self, store: ArtifactStore) -> dict[str, Tensor]:
        """The bank: what every rank needs of the stages' entries. Called on rank 0 alone, with all entries there."""
        return {}

    def adopt(self, bank: dict[str, Tensor]) -> None:
        """Take over the bank, on the CPU and the same on every rank; called before ``prepare``, if there are stages."""

    def encode_image(self, sample: Sample) -> Any:
        """What the frozen models see in the whole image, such as its saliency; depends on ``image_settings`` alone."""
        return None

    def image_context(self, sample: Sample, image: Any) -> Any:
        """What is decided once for an image; handed to ``score`` and ``fuse``.

        Args:
            sample: The image.
            image: What ``encode_image`` returned.
        """
        return image

    def windows(self, height: int, width: int) -> list[Box]:
        """Where to look: the protocol's grid, unless the paper looks at several scales."""
        return window_grid(height, width, self.protocol.window, self.protocol.stride)

    @abstractmethod
    def encode(self, windows: Tensor, boxes: Sequence[Box], image: Any) -> Any:
        """What the frozen models see in some windows of one image; depends on ``encode_settings`` alone.

        Args:
            windows: [B, 3, h, w] uint8 RGB.
            boxes: Where each of the B windows lies.
            image: What ``encode_image`` returned.
        """

    @abstractmethod
    def score(self, encoded: Any, boxes: Sequence[Box], context: Any) -> Sequence[ScoreMap]:
        """Score encoded windows; ``encoded`` is shared with other configurations and must not be changed.

        Args:
            encoded: What ``encode`` returned for B windows.
            boxes: Where each of them lies.
            context: What ``image_context`` returned.

        Returns:
            One or more score maps (scales, feature extractors), each [B, C, ., .] over all classes, or over all but
            the background if ``scores_background`` is false; their bilinearly upsampled mean is the window's score.
        """

    def fuse(self, planes: Tensor, classes: slice, context: Any) -> Tensor:
        """Combine stitched planes [C, h, w] of ``classes`` with what is known of the whole image."""
        return planes

    @property
    def finds_names(self) -> bool:
        """Whether the method can do without a list of classes, see ``find_names``."""
        return False

    def find_names(self, image: Tensor) -> tuple[str, ...]:
        """What is in an image, in the method's own words; called on the device, before ``prepare``.

        The vocabulary is then what was found in all images together, with ``names_found`` set; an image must still
        be segmented as if it were alone.

        Args:
            image: [3, H, W] uint8 RGB, as read.

        Returns:
            Class names, each once; possibly none.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a list of classes")

    def explain(self, sample: Sample, labels: Tensor) -> list[Evidence]:
        """What decided each class of a prediction, for methods that can tell.

        Args:
            sample: The image.
            labels: Its predicted label map, [H', W'] uint8.

        Returns:
            Evidence by class; empty for a method that cannot tell.
        """
        return []

    @final
    def make_ready(self, vocabulary: Vocabulary, protocol: Protocol) -> None:
        """Bind, load, and freeze: what comes before the Trainer, whatever the command.

        Raises:
            OvsegError: See ``bind`` and ``load``.
        """
        self.bind(vocabulary, protocol)
        self.load()
        self.eval().requires_grad_(False)
        self._weights = None
        # Now, in the precision of the files: the Trainer may convert the models before a stage asks.
        self.weights()

    def weights(self) -> dict[str, str]:
        """A hash of the weights per model, by the name of the submodule; gigabytes are read once, when first asked."""
        if self._weights is None:
            self._weights = self._hash_models()
        return dict(self._weights)

    def _hash_models(self) -> dict[str, str]:
        models = dict(self.named_children())
        for name, child in list(models.items()):
            if isinstance(child, torch.nn.ModuleDict):
                del models[name]
                models |= {f"{name}.{key}": module for key, module in child.items()}
        hashes = {
            name: module.all_weights() if isinstance(module, Part) else hash_weights(module)
            for name, module in models.items()
            if module.state_dict()
        }
        return {name: found for name, found in hashes.items() if found is not None}

    @final
    def predict_step(self, batch: list[Sample], batch_idx: int) -> list[Prediction]:
        """Predict each sample of a batch on its own, so that no result depends on what shares its batch.

        Raises:
            DataError: A sample could not be read and the data says ``on_error: stop``.
        """
        return [Prediction(sample, self.predict_image(sample) if self.readable(sample) else None) for sample in batch]

    def readable(self, sample: Sample) -> bool:
        """Whether the sample was read; one that was not is skipped if the data says so.

        Raises:
            DataError: It could not be read and the data says ``on_error: stop``.
        """
        if sample.error is not None and self.on_error == "stop":
            raise DataError(f"{sample.error} (--data.on_error skip leaves it out)")
        return sample.error is None

    @final
    def predict_image(self, sample: Sample) -> Tensor:
        """The label map of one sample, [H', W'] uint8 at ``sample.size``."""
        return predict_jointly([self], sample)[0]

    @cached_property
    def image_key(self) -> Hashable:
        """Equal for methods whose ``encode_image`` gives the same: the same parts (as objects) and settings."""
        return type(self), self._values(self.image_settings)

    @cached_property
    def encode_key(self) -> Hashable:
        """Equal for bound methods whose ``encode`` gives the same: equal parts (as objects), settings and windows."""
        protocol = self.protocol
        windows = protocol.window, protocol.stride, protocol.small_images, protocol.templates
        return type(self), self._values(self.encode_settings), windows

    def _values(self, names: frozenset[str]) -> Hashable:
        return tuple((name, _hashable(self.arguments[name])) for name in sorted(names) if name in self.arguments)

    def fitted(self, image: Tensor) -> Tensor:
        """The image, padded to the window at the bottom and right if the protocol pads small images."""
        window = self.protocol.window
        if self.protocol.small_images != "pad" or window is None:
            return image
        bottom, right = max(window - image.shape[1], 0), max(window - image.shape[2], 0)
        return F.pad(image, (0, right, 0, bottom))

    def label_map(
        self, sample: Sample, image: Tensor, maps: list[list[ScoreMap]], boxes: Sequence[Box], context: Any
    ) -> Tensor:
        """Stitch, fuse, refine, upsample and compare the classes of one image.

        Args:
            sample: The image.
            image: [3, H, W] uint8 RGB, as ``fitted``.
            maps: Per window, its score maps, each with B = 1.
            boxes: Where each window lies.
            context: What ``image_context`` returned.

        Returns:
            [H', W'] uint8 at ``sample.size``.
        """
        visible = (sample.image.shape[1], sample.image.shape[2])
        nearest = self.protocol.upsample == "nearest"
        fuses = type(self).fuse is not SegmentationMethod.fuse
        refines = self.refiner is not None and self.protocol.refine == "image"

        def refined(planes: Tensor, classes: slice) -> Tensor:
            return self._refine(image[:, : visible[0], : visible[1]], planes) if refines else planes

        def fused(planes: Tensor, classes: slice) -> Tensor:
            return refined(self.fuse(planes, classes, context), classes)

        def stitcher(maps: Sequence[Sequence[ScoreMap]], on_image: Callable[[Tensor, slice], Tensor]) -> Stitcher:
            return Stitcher(
                self._refined_maps(image, maps, boxes),
                boxes,
                (image.shape[1], image.shape[2]),
                visible,
                visible if nearest else sample.size,
                self._refine_window(image),
                on_image if fuses or refines else None,
                self.score_floor,
            )

        stitched = stitcher(maps, fused)
        if not self.vocabulary.background or self.scores_background:
            labels = stitched.labels()
        else:
            constant = float(self.background_threshold or 0.0)
            background: float | Tensor = constant
            if self.refiner is not None and self.protocol.background == "refined":
                plane = ScoreMap(torch.full((1, 1, 2, 2), constant, device=image.device))
                background = stitcher([[plane]] * len(boxes), refined).planes(slice(0, 1), slice(0, 1))
            labels = stitched.labels(1, background)
        if nearest and tuple(labels.shape) != sample.size:
            labels = resize_labels(labels, sample.size)
        return labels

    def _refined_maps(
        self, image: Tensor, maps: Sequence[Sequence[ScoreMap]], boxes: Sequence[Box]
    ) -> Sequence[Sequence[ScoreMap]]:
        """Score maps refined at their own resolution, if the protocol says so (TCL's order)."""
        if self.refiner is None or self.protocol.refine != "mask":
            return maps
        return [
            [self._refine_map(image[:, box.top : box.bottom, box.left : box.right], each) for each in window_maps]
            for window_maps, box in zip(maps, boxes, strict=True)
        ]

    def _refine_map(self, window: Tensor, found: ScoreMap) -> ScoreMap:
        """One score map (B = 1) on a window [3, h, w] that is shrunk to the map's grid, corners on corners."""
        height, width = window.shape[1:]
        planes = found.scores[0].float()
        if found.extent is not None and found.extent != (0, 0, height, width):
            # A grid of cells as large as the map's that covers exactly the window.
            top, left, bottom, right = found.extent
            rows = max(1, round(planes.shape[1] * height / (bottom - top)))
            columns = max(1, round(planes.shape[2] * width / (right - left)))
            down, across = rows / height, columns / width
            planes = upsample(planes, (rows, columns), (top * down, left * across, bottom * down, right * across))
        small = F.interpolate(window[None].float(), tuple(planes.shape[1:]), mode="bilinear", align_corners=True)[0]
        return ScoreMap(self._refine(small, planes)[None])

    def _refine_window(self, image: Tensor) -> Callable[[Tensor, Box, slice], Tensor] | None:
        if self.refiner is None or self.protocol.refine != "window":
            return None
        return lambda planes, box, classes: self._refine(image[:, box.top : box.bottom, box.left : box.right], planes)

    def _refine(self, image: Tensor, planes: Tensor) -> Tensor:
        if self.refiner is None:
            return planes
        if image.is_floating_point() and not self.refiner.takes_floats:
            image = image.round().to(torch.uint8)
        return self.refiner(image, planes)


def _hashable(value: Any) -> Hashable:
    """A setting; of a part which object it is, since where its files lie is no setting."""
    if isinstance(value, torch.nn.Module):
        return id(value)
    if isinstance(value, Mapping):
        return tuple((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    return json.dumps(as_json(value))


def predict_jointly(methods: Sequence[SegmentationMethod], sample: Sample) -> list[Tensor]:
    """Label maps of one sample by several methods on one device, which share what they encode alike.

    A method's label map is the one that it would predict alone.

    Returns:
        [H', W'] uint8 at ``sample.size``, in the order of the methods.
    """
    encoded_images: dict[Hashable, Any] = {}
    groups: dict[Hashable, list[int]] = {}
    for index, method in enumerate(methods):
        if method.image_key not in encoded_images:
            encoded_images[method.image_key] = method.encode_image(sample)
        groups.setdefault(method.encode_key, []).append(index)
    labels: dict[int, Tensor] = {}
    for indices in groups.values():
        alike = [methods[index] for index in indices]
        found = _predict_alike(alike, sample, [encoded_images[method.image_key] for method in alike])
        labels |= zip(indices, found, strict=True)
    return [labels[index] for index in range(len(methods))]


def _predict_alike(
    methods: Sequence[SegmentationMethod], sample: Sample, encoded_images: Sequence[Any]
) -> list[Tensor]:
    """Label maps by methods that encode windows alike: the first encodes, each scores."""
    first = methods[0]
    contexts = [method.image_context(sample, seen) for method, seen in zip(methods, encoded_images, strict=True)]
    image = first.fitted(sample.image)
    boxes = first.windows(image.shape[1], image.shape[2])
    maps: list[list[list[ScoreMap]]] = [[] for _ in methods]
    for some in batches(boxes, first.window_batch):
        encoded = first.encode(cut(image, some), some, encoded_images[0])
        for method, context, collected in zip(methods, contexts, maps, strict=True):
            scored = method.score(encoded, some, context)
            collected.extend([ScoreMap(m.scores[i : i + 1], m.extent) for m in scored] for i in range(len(some)))
    # Scores are added and compared in float32 whatever the models' precision.
    with torch.autocast(image.device.type, enabled=False):
        return [
            method.label_map(sample, image, collected, boxes, context)
            for method, context, collected in zip(methods, contexts, maps, strict=True)
        ]
