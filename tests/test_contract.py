"""The contract: what every method keeps, whatever its paper. A registered method without an entry in ``METHODS`` fails.

Methods run with Miniature's models, or tiny random ones of the same classes, on a few scenes in a folder, so that
images of any kind can lie beside them.
"""

import json
import re
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Folder
from harness import ArtifactStore, Protocol, Sample, SegmentationMethod, Vocabulary
from harness.artifacts.stage import PrecomputeReport
from harness.artifacts.store import TENSORS
from harness.cli import main
from harness.commands import precompute
from harness.commands.arguments import instantiate
from harness.commands.evaluate import parser
from harness.engine.preparation import prepare
from harness.method.method import Evidence
from harness.method.windows import cut
from harness.results.records import Record, read_lines
from harness.system.configured import as_json
from harness.system.plugins import METHODS as METHODS_GROUP
from harness.system.plugins import find_plugins
from miniature.world import CLASSES, draw_scene
from tests.methods.tiny_models import save_clip_seg, save_group_vit
from tests.running import REPOSITORY, Outcome, Ranks, images, integers, until

pytestmark = pytest.mark.usefixtures("one_thread")
# By entry point: its arguments, quick on four classes. ``{tiny}`` is a folder with tiny models.
METHODS: dict[str, list[str]] = {
    "clip_diy": ["--config=configs/experiments/clip_diy_miniature.yaml", "--method.patch_sizes=[96,48]"],
    "ovdiff": [
        "--config=configs/experiments/ovdiff_miniature.yaml",
        "--method.extractors={dino: configs/models/miniature_dino_features.yaml}",
        "--method.generator.steps=2",
        "--method.generator.batch_size=2",
        "--method.num_generated=2",
        "--method.support_size=2",
        "--method.num_parts=2",
        "--method.extra_windows=[]",
    ],
    "fossil": [
        "--config=configs/experiments/fossil_miniature.yaml",
        "--method.generator.steps=2",
        "--method.collection.captions.limit=12",
        "--method.collection.shard=4",
        "--method.num_references=4",
        "--method.num_prototypes=2",
        "--method.regions=configs/models/miniature_opencut.yaml",
        "--method.background_threshold=0.6",
    ],
    "freeseg_diff": [
        "--config=configs/experiments/freeseg_diff_miniature.yaml",
        "--method.regions.num_starts=1",
        "--method.refiner=null",
    ],
    "clip_dense": ["--config=configs/experiments/clip_dense_miniature.yaml"],
    "maskclip": ["--config=configs/experiments/maskclip_miniature.yaml"],
    "group_vit": [
        "--protocol=configs/protocols/miniature.yaml",
        "--method=methods.GroupViT",
        "--method.model=methods.backbones.hub_group_vit.HubGroupViT",
        "--method.model.name={tiny}/group_vit",
        "--method.background_threshold=0.2",
    ],
    "clip_seg": [
        "--protocol=configs/protocols/miniature.yaml",
        "--method=methods.CLIPSeg",
        "--method.model=methods.backbones.hub_clip_seg.HubCLIPSeg",
        "--method.model.name={tiny}/clip_seg",
        "--method.model.size=64",
        "--method.background_threshold=0.5",
    ],
}
# Settings of each method that its encoding does not depend on, other than in its arguments above.
FREE: dict[str, list[str]] = {
    "clip_diy": ["--method.scale_weights=[1,3]", "--method.placement=stretch"],
    "ovdiff": ["--method.support_size=1", "--method.levels=[class]", "--method.multi_label=true"],
    "fossil": ["--method.num_prototypes=1", "--method.gamma=1.0", "--method.uncovered=interpolated"],
    "freeseg_diff": ["--method.threshold=0.9", "--method.reject=false", "--method.one_region=true"],
    "clip_dense": ["--method.temperature=0.1", "--method.background_threshold=0.9"],
    "maskclip": ["--method.key_smoothing=true", "--method.prompt_denoising=0.5"],
    "group_vit": ["--method.top_classes=1", "--method.score_stride=2"],
    "clip_seg": ["--method.score_stride=8", '--method.templates=["{}"]'],
}
NAMES = ("background", "cat", "boat", "tree")
SCENES = ("cat", "boat", "tree", "cat", "boat")  # what is to be seen in each
# Height and width of unusual images.
SIZES = ((1, 9), (9, 1), (1, 1), (2, 3), (3, 60), (6, 640), (1, 1000))


class Case(NamedTuple):
    """A method, with all that it needs made.

    Attributes:
        name: Its entry point.
        given: Its arguments on the command line, without data and store.
        world: Folders of images: ``scenes``, ``damaged`` (the same, the second cut short) and ``odd``.
        store: Its store; no test makes anything new in it.
        made: What ``ovseg precompute`` did in an empty store.
        run_dir: An evaluation on one rank.
    """

    name: str
    given: list[str]
    world: Path
    store: Path
    made: PrecomputeReport
    run_dir: Path

    def arguments(self, store: Path, data: str = "scenes") -> list[str]:
        return [*self.given, "--data=datamodules.Folder", f"--data.root={self.world / data}", f"--store={store}"]


class Ready(NamedTuple):
    """A method on its device, after everything that comes before the first image, and images."""

    method: SegmentationMethod
    scenes: list[Sample]
    odd: list[Sample]

    @torch.inference_mode()
    def labels(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """The label maps of one batch, by the images' ids."""
        predictions = self.method.predict_step(samples, 0)
        return {p.sample.id: p.labels for p in predictions if p.labels is not None}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    (root / "scenes" / "images").mkdir(parents=True)
    (root / "scenes" / "masks").mkdir()
    (root / "scenes" / "classes.txt").write_text("\n".join(NAMES))
    values = np.array([NAMES.index(name) if name in NAMES else 0 for name in CLASSES], dtype=np.uint8)
    for number, name in enumerate(SCENES):
        # Sizes in a row, so that something kept of one image fits the next, and both in one batch of two.
        scene = draw_scene(number, (48, 48) if number < 3 else (48, 72), only=name)
        Image.fromarray(scene.image).save(root / "scenes" / "images" / f"{number}.png")
        Image.fromarray(values[scene.labels]).save(root / "scenes" / "masks" / f"{number}.png")
    shutil.copytree(root / "scenes", root / "damaged")
    damaged = root / "damaged" / "images" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:700])
    _odd_images(root / "odd")
    return root


def _odd_images(folder: Path) -> None:
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(NAMES))
    colours = np.random.default_rng(0)
    for height, width in SIZES:
        noise = colours.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{height}x{width}.png")
    Image.new("RGB", (50, 40), (9, 9, 9)).save(folder / "plain.png")
    scene = Image.fromarray(draw_scene(0, (48, 48), only="cat").image)
    scene.save(folder / "rgb.png")
    scene.putalpha(Image.new("L", scene.size, 90))
    scene.save(folder / "rgb_alpha.png")
    grey = scene.convert("L")
    grey.save(folder / "grey.png")
    grey.convert("RGB").save(folder / "grey_rgb.png")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models."""
    folder = tmp_path_factory.mktemp("tiny")
    save_group_vit(folder / "group_vit")
    save_clip_seg(folder / "clip_seg")
    return folder


@pytest.fixture(scope="module", params=METHODS)
def case(request: pytest.FixtureRequest, world: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    given = [argument.replace("{tiny}", str(tiny)) for argument in METHODS[request.param]]
    case = Case(request.param, given, world, folder / "store", PrecomputeReport(), folder / "run")
    made = precompute.run(case.arguments(case.store))
    assert evaluate(case, case.store, case.run_dir) == 0
    return case._replace(made=made)


@pytest.fixture(scope="module")
def build(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ready]:
    """Makes the method ready for a vocabulary."""
    # A store of its own: other images may leave something in it.
    store = tmp_path_factory.mktemp("ready") / "store"
    case.store.mkdir(exist_ok=True)
    shutil.copytree(case.store, store)

    @torch.inference_mode()
    def make(words: Vocabulary, *more: str) -> Ready:
        built = parser()
        made = instantiate(built, built.parse_args([*case.arguments(store), *more]))
        made.method.store = ArtifactStore(store)
        made.method.make_ready(words, made.protocol)
        prepare([made.method])
        return Ready(
            made.method, *(samples(Folder(str(case.world / each)), made.protocol) for each in ("scenes", "odd"))
        )

    return make


@pytest.fixture(scope="module")
def ready(build: Callable[..., Ready]) -> Ready:
    """The method, ready for the vocabulary of the scenes."""
    return build(Vocabulary(NAMES, background=True))


def without_case() -> list[str]:
    """A sentence for every registered method that the contract does not cover."""
    return [
        f"the method '{name}' is registered but not tested: add '{name}' to METHODS and FREE in tests/test_contract.py"
        for name in find_plugins(METHODS_GROUP)
        if name not in METHODS or name not in FREE
    ]


def test_every_registered_method_is_covered(external: Path) -> None:
    """All but that of the package that the tests install, which shows that an uncovered one is named."""
    (sentence,) = without_case()
    assert sentence.startswith("the method 'nearest_colour' is registered but not tested: add 'nearest_colour' to")
    assert METHODS.keys() == FREE.keys() == find_plugins(METHODS_GROUP).keys() - {"nearest_colour"}


def test_a_case_runs_the_method_of_its_name(case: Case, ready: Ready) -> None:
    assert type(ready.method) is find_plugins(METHODS_GROUP)[case.name].load()


def samples(data: Folder, protocol: Protocol) -> list[Sample]:
    """All images as a method gets them."""
    data.plan(protocol, range(len(data.ids)))
    return list(chain.from_iterable(data.predict_dataloader()))


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """A starter of real ranks, which find ``tests.gated``."""
    return Ranks(tmp_path_factory.mktemp("ranks"), [str(REPOSITORY)])


def evaluate(case: Case, store: Path, run_dir: Path, *more: str) -> int:
    """``ovseg evaluate`` on the scenes in this process; its exit code."""
    return main(["evaluate", *case.arguments(store), f"--run_dir={run_dir}", "--save_label_maps=true", *more])


def found(run_dir: Path) -> tuple[Any, ...]:
    """All that must be equal between two runs: the integers, the bank, and every label map."""
    maps = {path.name: label_map(path) for path in (run_dir / "label_maps").iterdir()}
    assert len(maps) == len(images(run_dir))
    return (*integers(run_dir), json.loads((run_dir / "results.json").read_text())["bank"], maps)


def label_map(path: Path) -> list[list[int]]:
    with Image.open(path) as image:
        return np.array(image).tolist()


def entries(store: Path) -> dict[str, tuple[bytes, int]]:
    """Every entry's tensors, and which file on the disk they are."""
    root = ArtifactStore(store)
    files = {key: root.folder(key) / TENSORS for key in root.all_keys()}
    return {key: (file.read_bytes(), file.stat().st_ino) for key, file in files.items()}


def tensors(store: Path) -> dict[str, bytes]:
    return {key: content for key, (content, _) in entries(store).items()}


def recorded(run_dir: Path) -> list[Record]:
    """What an unfinished run has recorded."""
    return [record for file in (run_dir / "records").glob("*.jsonl") for record in read_lines(file)]


# Precompute: once.


def test_what_is_needed_is_made_once(case: Case, tmp_path: Path) -> None:
    assert all(stage.num_cached == 0 for stage in case.made.stages)
    assert (case.made.bank is None) == (case.made.stages == ())
    before = entries(case.store)
    assert len(before) >= sum(stage.num_items for stage in case.made.stages)
    again = precompute.run(case.arguments(case.store))
    assert [(stage.name, stage.num_cached) for stage in again.stages] == [
        (s.name, s.num_items) for s in case.made.stages
    ]
    assert again.bank == case.made.bank
    # What a method keeps of an image is not made again, either.
    assert evaluate(case, case.store, tmp_path / "run") == 0
    assert found(tmp_path / "run") == found(case.run_dir)
    assert entries(case.store) == before


# Predict.


def test_a_label_map_has_the_truths_size_and_the_vocabularys_values(case: Case, ready: Ready) -> None:
    assert ready.method.precomputed.bank == case.made.bank
    together = ready.labels(ready.scenes)
    for sample, record in zip(ready.scenes, images(case.run_dir), strict=True):
        labels = together[sample.id]
        assert labels.dtype == torch.uint8
        assert sample.labels is not None
        assert labels.shape == sample.labels.shape == sample.size
        counts = torch.bincount(labels.flatten(), minlength=len(NAMES)).tolist()
        assert [counts[c] for c in record.classes] == list(record.prediction)
        assert sum(counts) == sum(record.prediction) == labels.numel()


def test_a_run_is_no_single_class(case: Case) -> None:
    """Without this, much of what is equal here would be equal whatever the code does."""
    assert sum(prediction > 0 for _, _, prediction, _ in integers(case.run_dir)[1]) >= 3


def test_an_image_does_not_depend_on_the_others(case: Case, ready: Ready) -> None:
    ready.labels(ready.odd[-2:])
    torch.rand(7)
    for sample in reversed(ready.scenes):
        labels = ready.labels([sample])[sample.id]
        assert labels.tolist() == label_map(case.run_dir / "label_maps" / f"{sample.number:06d}.png"), sample.id


def test_an_explanation_is_evidence_or_nothing(ready: Ready) -> None:
    sample = ready.scenes[1]
    labels = ready.labels([sample])[sample.id]
    with torch.inference_mode():
        evidence = ready.method.explain(sample, labels)
    assert bool(evidence) == (type(ready.method).explain is not SegmentationMethod.explain)
    for each in evidence:
        assert isinstance(each, Evidence)
        assert each.label in labels.unique().tolist()
        assert each.title
        assert each.image.dtype == np.uint8
        assert each.region.dtype == bool
        assert each.image.shape == (*each.region.shape, 3)
        assert each.region.any()


@torch.inference_mode()
def test_encoding_depends_on_what_is_declared_alone(case: Case, ready: Ready, build: Callable[..., Ready]) -> None:
    other = build(Vocabulary(NAMES, background=True), *FREE[case.name]).method
    method, sample = ready.method, ready.scenes[0]
    changed = {name for name, value in other.arguments.items() if not _alike(value, method.arguments[name])}
    assert changed
    assert not changed & (method.image_settings | method.encode_settings)
    images = [each.encode_image(sample) for each in (method, other)]
    boxes = method.windows(*sample.image.shape[1:])
    windows = cut(sample.image, boxes[:1])
    codes = [each.encode(windows, boxes[:1], image) for each, image in zip((method, other), images, strict=True)]
    assert _same(images[0], images[1])
    assert _same(codes[0], codes[1])


def _alike(one: Any, other: Any) -> bool:
    return as_json(one) == as_json(other)


def _same(one: Any, other: Any) -> bool:
    """Whether two results of frozen models are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


# Exactness.


def test_two_fresh_runs_are_equal_also_with_other_batches_and_workers(case: Case, tmp_path: Path) -> None:
    loading = ["--data.batch_size=2", "--data.num_workers=1"]
    assert evaluate(case, tmp_path / "store", tmp_path / "run", *loading) == 0
    assert found(tmp_path / "run") == found(case.run_dir)
    assert tensors(tmp_path / "store") == tensors(case.store)


def test_two_ranks_make_and_count_what_one_does(case: Case, starter: Ranks, tmp_path: Path) -> None:
    arguments = ["evaluate", *case.arguments(tmp_path / "store"), f"--run_dir={tmp_path / 'run'}"]
    outcomes = starter.ovseg(2, *arguments, "--save_label_maps=true")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert found(tmp_path / "run") == found(case.run_dir)
    assert tensors(tmp_path / "store") == tensors(case.store)


def test_killed_twice_it_goes_on_with_more_ranks(case: Case, ready: Ready, starter: Ranks, tmp_path: Path) -> None:
    """Killed at the first thing that is finished; then before the last image, which leaves one rank of two idle."""
    store, run_dir, gate, scenes = (tmp_path / name for name in ("store", "run", "gate", "scenes"))
    gate.touch()
    shutil.copytree(case.world / "scenes", scenes)
    given = ["evaluate", *case.arguments(store), "--data=tests.gated.Gated", f"--data.root={scenes}"]
    given += [f"--data.gate={gate}", f"--run_dir={run_dir}", "--save_label_maps=true"]
    killed(starter.start(starter.command, 1, *given), lambda: ArtifactStore(store).all_keys() or recorded(run_dir))
    begun = entries(store)
    # Of what the method needs only the rest is made; made again it would look the same.
    needed = {item.key for stage in ready.method.stages() for item in stage.items()}
    resumed = precompute.run(case.arguments(store))
    assert sum(stage.num_cached for stage in resumed.stages) == len(needed & begun.keys())
    killed(starter.start(starter.command, 1, *given), lambda: len(recorded(run_dir)) >= len(SCENES) - 1)
    done = recorded(run_dir)
    assert json.loads((run_dir / "results.json").read_text())["status"] == "running"
    assert len(done) == len(SCENES) - 1
    gate.unlink()
    for record in done:
        # An image that is done would end the run if it were read again.
        finished = scenes / "images" / record.id
        finished.write_bytes(bytes(finished.stat().st_size))
    outcomes = starter.ovseg(2, *given)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert found(run_dir) == found(case.run_dir)
    # Nothing that was finished was touched again: the same files, the same seconds.
    assert set(done) <= set(images(run_dir))
    after = entries(store)
    assert {key: after[key] for key in begun} == begun
    assert tensors(store) == tensors(case.store)


def killed(processes: list[Any], condition: Callable[[], Any]) -> None:
    """Kill processes as soon as something is true."""
    until(lambda: condition() or not all(each.is_alive() for each in processes), limit=300)
    assert all(each.is_alive() for each in processes), "it ended by itself"
    for process in processes:
        process.kill()
        process.join()


# Bad input.


def test_an_unreadable_image_stops_the_run_or_is_skipped(
    case: Case, ovseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    arguments = ["evaluate", *case.arguments(case.store, "damaged"), f"--run_dir={tmp_path / 'run'}"]
    check_sentence(ovseg(*arguments), "1.png")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"
    outcome = ovseg(*arguments, "--data.on_error=skip")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["num_images"], results["skipped"]) == (len(SCENES) - 1, 1)
    for record, expected in zip(images(tmp_path / "run"), images(case.run_dir), strict=True):
        if record.id == "1.png":
            assert "1.png" in (record.skipped or "")
        else:
            assert record.result == expected.result


def test_images_of_any_size_and_kind_are_segmented(ready: Ready) -> None:
    labels: dict[str, torch.Tensor] = {}
    for sample in ready.odd:
        assert sample.error is None
        labels |= ready.labels([sample])
        assert labels[sample.id].shape == sample.original.shape[1:], sample.id
        assert labels[sample.id].dtype == torch.uint8
        assert labels[sample.id].max() < len(NAMES), sample.id
    assert len(labels) == len(SIZES) + 5
    assert torch.equal(labels["rgb_alpha.png"], labels["rgb.png"])
    assert torch.equal(labels["grey.png"], labels["grey_rgb.png"])


@pytest.mark.parametrize("background", [False, True])
def test_one_class_is_enough(background: bool, build: Callable[..., Ready]) -> None:
    """Also in an image that shows something else."""
    ready = build(Vocabulary.from_class_names("cat", background))
    for sample in ready.scenes[:2]:
        labels = ready.labels([sample])[sample.id]
        assert labels.shape == sample.size
        assert labels.max() <= int(background), sample.id


def test_a_missing_model_is_one_sentence(case: Case, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    """Each of the method's models in turn is looked for where there is nothing."""
    built = parser()
    config = built.dump(built.parse_args(case.arguments(case.store)), skip_none=False)
    models = sorted(set(re.findall(r"(?:miniature/weights|/\S+/tiny\d*)/\S+", config)))
    assert models
    for model in models:
        file = tmp_path / "elsewhere.yaml"
        file.write_text(config.replace(model, f"nowhere/{model}"))
        outcome = ovseg("evaluate", f"--config={file}", f"--run_dir={tmp_path / 'run'}")
        check_sentence(outcome, f"nowhere/{model}")


def check_sentence(outcome: Outcome, named: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("ovseg evaluate: ")
    assert named in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err) < 500, outcome.err
