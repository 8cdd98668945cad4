"""The contract of a method: ``predict_step`` is written once, here, and sealed; a paper fills in a few hooks."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from harness.artifacts.precompute import precompute
from harness.artifacts.stage import Precomputed, Stage
from harness.artifacts.store import ArtifactStore
from harness.data.datamodule import Sample
from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.method.configured import Configured
from harness.method.part import Part, Requirement, identity_of, parts_of, required_by, unique
from harness.method.refiner import Refiner
from harness.method.windows import (
    Box,
    RunningArgmax,
    ScoreMap,
    batches,
    class_chunks,
    cut,
    separable,
    stitch,
    stitch_at,
    window_grid,
)
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
    """A picture region that decided a class of a segmentation.

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
    ``load`` builds its frozen models from local files; what its ``stages`` need is made once over all ranks, and
    ``adopt`` gets the bank that ``assemble`` put together; ``prepare`` runs once on the device, before the first image.
    Then ``predict_step`` does, for every image: ``image_context`` -> windows, batched -> ``window_scores`` ->
    stitched -> ``fuse`` -> refined -> label map at the ground truth's size.

    A new method subclasses this and fills in ``load`` and ``window_scores``, and what else its paper needs.

    Args:
        window_batch: Windows of one image that go through the models at once.
        background_threshold: Constant score of the background class for methods that do not score it themselves
            (``scores_background`` false); needed only when the vocabulary has a background.
    """

    name: str = ""
    scores_background: bool = False

    vocabulary: Vocabulary
    protocol: Protocol
    on_error: str = "stop"
    names_found: bool = False  # set by `ovseg segment` without classes: the vocabulary is what `find_names` found
    precomputed: Precomputed = Precomputed()
    _weights: dict[str, str] | None = None

    def __init__(self, window_batch: int = 8, background_threshold: float | None = None) -> None:
        super().__init__()
        if window_batch < 1:
            raise ConfigurationError("method: window_batch must be at least 1")
        self.window_batch = window_batch
        self.background_threshold = background_threshold
        self.refiner: Refiner | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Results and run directories need a name, also of a method whose author gave none.
        cls.name = cls.name or cls.__name__
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
        given = {name: value for name, value in self.arguments.items() if name not in self.not_identity}
        return {"class": type(self).__name__, **{name: identity_of(value) for name, value in given.items()}}

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

    @abstractmethod
    def load(self) -> None:
        """Build the frozen models and assign them as submodules.

        Raises:
            ModelError: Weights are not on this machine; the message says what to fetch.
        """

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

    @final
    def on_predict_start(self) -> None:
        """Lightning's hook: the models are on the device, the first image is still to come."""
        self.precomputed = precompute(self, self.store)
        self.prepare()

    def image_context(self, sample: Sample) -> Any:
        """What a method computes once for an image, such as its saliency; handed to the other hooks."""
        return None

    def windows(self, height: int, width: int) -> list[Box]:
        """Where to look: the protocol's grid, unless the paper looks at several scales."""
        return window_grid(height, width, self.protocol.window, self.protocol.stride)

    @abstractmethod
    def window_scores(self, windows: Tensor, boxes: Sequence[Box], context: Any) -> Sequence[ScoreMap]:
        """Score some windows of one image.

        Args:
            windows: [B, 3, h, w] uint8 RGB.
            boxes: Where each of the B windows lies.
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
        """What is in a picture, in the method's own words; called on the device, before ``prepare``.

        The vocabulary is then what was found in all pictures together, with ``names_found`` set; a picture must still
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
            sample: The picture.
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
        predictions = []
        for sample in batch:
            if sample.error is not None and self.on_error == "stop":
                raise DataError(f"{sample.error} (--data.on_error skip goes on without it)")
            predictions.append(Prediction(sample, None if sample.error else self.predict_image(sample)))
        return predictions

    @final
    def predict_image(self, sample: Sample) -> Tensor:
        """The label map of one sample, [H', W'] uint8 at ``sample.size``."""
        context = self.image_context(sample)
        image, size = self._fit(sample.image), sample.image.shape[1:]
        boxes = self.windows(image.shape[1], image.shape[2])
        maps: list[list[ScoreMap]] = []
        for some in batches(boxes, self.window_batch):
            batched = self.window_scores(cut(image, some), some, context)
            maps.extend([ScoreMap(m.scores[i : i + 1], m.extent) for m in batched] for i in range(len(some)))
        # Scores are added and compared in float32 whatever the models' precision.
        with torch.autocast(image.device.type, enabled=False):
            return self._label_map(image, maps, boxes, (size[0], size[1]), sample.size, context)

    def _fit(self, image: Tensor) -> Tensor:
        """The image, padded to the window at the bottom and right if the protocol pads small images."""
        window = self.protocol.window
        if self.protocol.small_images != "pad" or window is None:
            return image
        bottom, right = max(window - image.shape[1], 0), max(window - image.shape[2], 0)
        return F.pad(image, (0, right, 0, bottom))

    def _label_map(
        self,
        image: Tensor,
        maps: list[list[ScoreMap]],
        boxes: list[Box],
        seen: tuple[int, int],
        size: tuple[int, int],
        context: Any,
    ) -> Tensor:
        """Stitch, fuse, refine, upsample and compare the classes chunk by chunk."""
        first = 1 if self.vocabulary.background and not self.scores_background else 0
        nearest = self.protocol.upsample == "nearest"
        target = seen if nearest else size
        argmax = RunningArgmax()
        if first:
            constant = float(self.background_threshold or 0.0)
            argmax.update(torch.full((1, *target), constant, device=image.device, dtype=torch.float32), 0)
        whole = (image.shape[1], image.shape[2])
        # Nothing comes between stitching and upsampling.
        linear = self.refiner is None and type(self).fuse is SegmentationMethod.fuse and separable(maps, boxes)
        for chunk in class_chunks(len(self.vocabulary) - first, max(target[0], whole[0]), max(target[1], whole[1])):
            named = slice(chunk.start + first, chunk.stop + first)
            if linear:
                planes = stitch_at(maps, boxes, chunk, whole, seen, target)
            else:
                in_window = self._refine_window(image, named) if self.protocol.refine == "window" else None
                planes = stitch(maps, boxes, chunk, whole, in_window)
                planes = self.fuse(planes[:, : seen[0], : seen[1]], named, context)
                if self.protocol.refine == "image":
                    planes = self._refine(image[:, : seen[0], : seen[1]], planes, named)
                if tuple(planes.shape[1:]) != target:
                    planes = F.interpolate(planes[None], target, mode="bilinear", align_corners=False)[0]
            argmax.update(planes, named.start)
        labels = argmax.labels
        if nearest and tuple(labels.shape) != size:
            labels = F.interpolate(labels[None, None], size, mode="nearest")[0, 0]
        return labels

    def _refine_window(self, image: Tensor, classes: slice) -> Any:
        if self.refiner is None:
            return None
        return lambda planes, b: self._refine(image[:, b.top : b.bottom, b.left : b.right], planes, classes)

    def _refine(self, image: Tensor, planes: Tensor, classes: slice) -> Tensor:
        """Refine planes, all but a background that the protocol leaves unrefined."""
        if self.refiner is None:
            return planes
        keep = int(self.vocabulary.background and self.protocol.background == "unrefined" and classes.start == 0)
        if keep == planes.shape[0]:
            return planes
        return torch.cat([planes[:keep], self.refiner(image, planes[keep:])])
