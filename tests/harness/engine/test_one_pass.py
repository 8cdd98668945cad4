"""One pass: points of a study count what their own runs would, and each image goes through the models once."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import ConfigurationError, RunError, Sample
from harness.commands import joint_evaluation
from harness.commands.arguments import resolve_names
from harness.commands.evaluate import evaluate_parsed, parser
from harness.commands.joint_evaluation import evaluate_group, groups
from harness.engine.evaluation import Evaluation
from harness.results.records import Record, read_lines
from methods import ClipDIY
from methods.backbones import HubViT, OpenCLIP
from methods.backbones.diffusion_features import DiffusionFeatures
from tests.running import SQUARES, TESTS, Ranks, images, integers, until

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = TESTS / "harness" / "ranks" / "joint.py"
SMALL = ["--data=miniature.datamodule.Miniature", "--data.limit=2", "--trainer.accelerator=cpu"]
GENERATOR = ["--method.generator.steps=2", "--method.generator.batch_size=8"]
# Experiments, what makes them quick, and points that differ after feature extraction.
STUDIES: dict[str, tuple[list[str], list[list[str]]]] = {
    "fossil": (
        [
            *GENERATOR,
            "--data.classes=all",
            "--method.collection.captions.limit=8",
            "--method.collection.shard=4",
            "--method.regions=configs/models/miniature_opencut.yaml",
            "--method.regions.taus=[0.7]",
            "--method.regions.stages=1",
        ],
        [
            ["--method.num_references=4", "--method.num_prototypes=2", "--method.gamma=0"],
            ["--method.num_references=4", "--method.num_prototypes=2", "--method.gamma=1"],
            ["--method.num_references=4", "--method.num_prototypes=4", "--method.regions_on=image"],
            ["--method.num_references=2", "--method.regions=null", "--method.refiner=methods.refinement.PAMR"],
        ],
    ),
    "clip_diy": (
        [],
        [
            [],
            ["--method.scale_weights=[1,0.1,3]"],
            ["--method.saliency=null", "--method.patch_sizes=[48,24]", "--protocol.stride=32"],
        ],
    ),
    "ovdiff": (
        [
            *GENERATOR,
            "--method.extractors={dino: configs/models/miniature_dino_features.yaml}",
            "--method.num_generated=2",
            "--method.support_size=1",
            "--method.extra_windows=[]",
            "--method.num_parts=2",
        ],
        [
            [],
            ["--method.clip=null", "--method.background=threshold", "--method.background_threshold=0.4"],
            ["--method.multi_label=true", "--method.prefilter_scale=100", "--method.support_size=2"],
            ["--method.levels=[class]", "--method.refiner=methods.refinement.PAMR"],
        ],
    ),
    "freeseg_diff": (
        ["--method.regions.num_starts=1", "--method.refiner=methods.refinement.PAMR"],
        [
            [],
            ["--method.threshold=0.3", "--method.background_names=[]"],
            ["--method.captioner=null", "--method.regions.num_clusters=4", "--method.refiner=null"],
        ],
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def lines(name: str, folder: Path, store: Path) -> list[list[str]]:
    """The command lines of a study's points, each with a run directory below ``folder``."""
    base, points = STUDIES[name]
    shared = [f"--config=configs/experiments/{name}_miniature.yaml", *SMALL, *base, f"--store={store}"]
    return [[*shared, *point, f"--run_dir={folder / str(place)}"] for place, point in enumerate(points)]


def parsed(given: list[list[str]]) -> list[Any]:
    built = parser()
    return [built.parse_args(resolve_names(arguments)) for arguments in given]


def together_in_order(*given: Any) -> list[Evaluation]:
    built, parsed = given
    done = {}
    for group in groups(parsed):
        done |= dict(zip(group, evaluate_group(built, [parsed[place] for place in group]), strict=True))
    return [done[place] for place in sorted(done)]


@pytest.fixture(scope="module")
def own_runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the own run of each point of a study, made once."""
    done: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name)
            for one in parsed(lines(name, done[name], store)):
                evaluate_parsed(parser(), one, quiet=True)
        return done[name]

    return of


def check_equal(folder: Path, own: Path) -> None:
    """Every point's integers, bank and weights are those of its own run, and the points are not all alike."""
    found = {run.name: integers(run) for run in sorted(folder.iterdir())}
    assert found == {run.name: integers(run) for run in sorted(own.iterdir())}
    assert len({str(each) for each in found.values()}) > 1
    for run in own.iterdir():
        alone, shared = (json.loads((base / run.name / "results.json").read_text()) for base in (own, folder))
        assert [shared[key] for key in ("bank", "weights", "miou")] == [
            alone[key] for key in ("bank", "weights", "miou")
        ]
        assert (folder / run.name / "run.json").read_text() == (run / "run.json").read_text()


class Calls:
    """Counts what frozen models are asked: which model, and for which pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.loaded: list[int] = []
        for cls, name in ((HubViT, "_forward"), (DiffusionFeatures, "_run"), (OpenCLIP, "encode_images")):
            monkeypatch.setattr(cls, name, self._noting(getattr(cls, name)))
        build = HubViT.build

        def loading(model: HubViT) -> None:
            self.loaded.append(id(model))
            build(model)

        monkeypatch.setattr(HubViT, "build", loading)

    def _noting(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: Any, pixels: torch.Tensor, *others: Any) -> Any:
            self.asked.append((id(model), pixels.cpu().numpy().tobytes()))
            return compute(model, pixels, *others)

        return call


@pytest.mark.parametrize("name", STUDIES)
def test_points_count_what_their_own_runs_count(
    name: str, own_runs: Callable[[str], Path], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_runs(name)
    calls = Calls(monkeypatch)
    given = lines(name, tmp_path, store)
    evaluations = together_in_order(parser(), parsed(given))
    assert [evaluation.directory.path.name for evaluation in evaluations] == [str(i) for i in range(len(given))]
    check_equal(tmp_path, own)
    # The models are loaded once, and see an image once for each way of encoding.
    assert calls.asked
    ways = {(evaluation.method.image_key, evaluation.method.encode_key) for evaluation in evaluations}
    assert max(Counter(calls.asked).values()) <= len(ways)
    assert len(calls.loaded) == len(set(calls.loaded)) <= 1


# Points that differ in what is free alone.
FREE: dict[str, list[list[str]]] = {
    "fossil": [
        ["--method.num_references=4", "--method.num_prototypes=2", "--method.gamma=0"],
        [
            "--method.num_references=4",
            "--method.num_prototypes=4",
            "--method.gamma=0.3",
            "--method.uncovered=interpolated",
        ],
        ["--method.num_references=2", "--method.sigmoid=mixed", "--method.refiner=methods.refinement.PAMR"],
    ],
    "clip_diy": [[], ["--method.scale_weights=[1,0.1,3]"], ["--method.saliency=null", "--method.placement=stretch"]],
    "ovdiff": [
        [],
        ["--method.clip=null", "--method.background=threshold", "--method.background_threshold=0.4"],
        ["--method.multi_label=true", "--method.prefilter_scale=100", "--method.support_size=2"],
        ["--method.levels=[class]", "--method.refiner=methods.refinement.PAMR"],
    ],
    "freeseg_diff": [
        [],
        ["--method.threshold=0.3", "--method.background_names=[]"],
        ["--method.reject=false", "--method.one_region=true", "--method.refiner=null"],
    ],
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_free_costs_no_encoding(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = STUDIES[name]
    shared = [f"--config=configs/experiments/{name}_miniature.yaml", *SMALL, *base, f"--store={store}"]
    given = [[*shared, *point, f"--run_dir={tmp_path / str(place)}"] for place, point in enumerate(FREE[name])]
    calls = Calls(monkeypatch)
    evaluations = together_in_order(parser(), parsed(given))
    assert len({evaluation.method.encode_key for evaluation in evaluations}) == 1
    assert len({str(integers(evaluation.directory.path)) for evaluation in evaluations}) > 1
    assert calls.asked
    assert len(calls.asked) == len(set(calls.asked))


def test_two_ranks(own_runs: Callable[[str], Path], store: Path, ranks: Ranks, tmp_path: Path) -> None:
    own = own_runs("fossil")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    given = [[*line, *two] for line in lines("fossil", tmp_path, store)]
    outcomes = ranks.run(SCRIPT, 2, json.dumps(given))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    check_equal(tmp_path, own)


def test_points_that_are_resumed_unevenly(
    own_runs: Callable[[str], Path], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One point is finished, one has an image, the others none: every point gets exactly what it lacks."""
    own = own_runs("clip_diy")
    shutil.copytree(own / "0", tmp_path / "0")
    (tmp_path / "1" / "records").mkdir(parents=True)
    shutil.copy(own / "1" / "run.json", tmp_path / "1")
    kept = (own / "1" / "images.jsonl").read_text().splitlines(keepends=True)[1]
    (tmp_path / "1" / "records" / "a-0.jsonl").write_text(kept + kept[:30])
    predicted: list[int] = []
    context = ClipDIY.image_context

    def noting(method: ClipDIY, sample: Sample, image: Any) -> Any:
        predicted.append(sample.number)
        return context(method, sample, image)

    monkeypatch.setattr(ClipDIY, "image_context", noting)
    together_in_order(parser(), parsed(lines("clip_diy", tmp_path, store)))
    assert predicted == [0, 0, 1]
    check_equal(tmp_path, own)
    assert (tmp_path / "0" / "images.jsonl").read_bytes() == (own / "0" / "images.jsonl").read_bytes()
    assert (tmp_path / "1" / "images.jsonl").read_text().splitlines(keepends=True)[1] == kept


# A method from another package, which knows nothing of this.

SIX = [f"--config={SQUARES}", "--data.count=6"]


def squares(folder: Path, *further: str) -> list[list[str]]:
    return [[*SIX, f"--method.patch={patch}", f"--run_dir={folder / str(patch)}", *further] for patch in (2, 4, 8)]


@pytest.fixture(scope="module")
def own_squares(external: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    for one in parsed(squares(folder)):
        evaluate_parsed(parser(), one, quiet=True)
    return folder


def finished(folder: Path) -> list[Record]:
    return [record for file in folder.glob("*/records/*.jsonl") for record in read_lines(file)]


def test_killed_and_begun_again_on_another_number_of_ranks(own_squares: Path, ranks: Ranks, tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--method.delay=0.2"]
    started = ranks.start(SCRIPT, 2, json.dumps(squares(tmp_path, *two)))
    until(lambda: len(finished(tmp_path)) >= 5)
    for process in started:
        process.kill()
        process.join()
    before = finished(tmp_path)
    assert 5 <= len(before) < 18
    (outcome,) = ranks.run(SCRIPT, 1, json.dumps(squares(tmp_path, "--method.delay=0.2")))
    assert outcome.code == 0, outcome
    for patch in (2, 4, 8):
        assert integers(tmp_path / str(patch)) == integers(own_squares / str(patch))
    # What was there is there unchanged, to its seconds: it was not computed again.
    assert set(before) <= {record for patch in (2, 4, 8) for record in images(tmp_path / str(patch))}


@pytest.mark.parametrize("processes", [1, 2])
def test_images_that_cannot_be_read(processes: int, external: Path, ranks: Ranks, tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"] if processes == 2 else []
    damaged = ["--data.damaged=[1,4]", "--data.batch_size=3", *two]
    outcomes = ranks.run(SCRIPT, processes, json.dumps(squares(tmp_path / "skip", *damaged, "--data.on_error=skip")))
    assert [outcome.code for outcome in outcomes] == [0] * processes, outcomes
    for patch in (2, 4, 8):
        found = images(tmp_path / "skip" / str(patch))
        assert [record.index for record in found if record.skipped] == [1, 4]
        assert len(found) == 6
    outcomes = ranks.run(SCRIPT, processes, json.dumps(squares(tmp_path / "stop", *damaged)))
    assert {outcome.code for outcome in outcomes} == {2}, outcomes
    assert "is damaged" in outcomes[0].err
    for patch in (2, 4, 8):
        assert json.loads((tmp_path / "stop" / str(patch) / "results.json").read_text())["status"] == "failed"


def test_seconds_add_up_to_the_pass(own_squares: Path, tmp_path: Path) -> None:
    evaluations = together_in_order(parser(), parsed(squares(tmp_path)))
    by_image = zip(*(images(evaluation.directory.path) for evaluation in evaluations), strict=True)
    for records in by_image:
        assert len({record.seconds for record in records}) == 1
        assert records[0].seconds > 0


def test_what_several_points_need_is_made_once(external: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shared = [*SIX, "--data.limit=1", "--method=tinyseg.painted.Painted", f"--method.log={log}", f"--store={tmp_path}"]
    given = [[*shared, f"--method.seconds={wait}", f"--run_dir={tmp_path / str(wait)}"] for wait in (0, 0.001)]
    evaluations = together_in_order(parser(), parsed(given))
    assert len(log.read_text().splitlines()) == 2 * 5  # start and end of each class
    first, second = (evaluation.method.precomputed for evaluation in evaluations)
    assert first.bank == second.bank is not None
    assert [(stage.num_items, sum(stage.computed_per_rank)) for stage in first.stages] == [(5, 5), (5, 5)]
    assert [(stage.num_items, sum(stage.computed_per_rank)) for stage in second.stages] == [(5, 0), (5, 0)]


def test_a_point_of_another_evaluation_is_named(own_squares: Path, tmp_path: Path) -> None:
    shutil.copytree(own_squares / "2", tmp_path / "4")
    with pytest.raises(RunError, match=r"belongs to another evaluation: method.settings.patch: 2 -> 4"):
        together_in_order(parser(), parsed(squares(tmp_path)))


# Which points go joint_evaluation.


def test_points_that_read_other_images_or_labels_follow_in_passes_of_their_own(external: Path) -> None:
    kinds = [
        [],
        ["--data.count=7"],
        ["--method.patch=2"],
        ["--protocol.window=24"],
        ["--protocol.size=[300,40]"],
        ["--data.count=7", "--method.delay=0"],
        ["--seed=3"],
        ["--trainer.precision=64"],
        ["--store=elsewhere"],
        ["--protocol.ignore_label=254"],
        ["--run_dir=there"],
    ]
    found = groups(parsed([[*SIX, *kind] for kind in kinds]))
    assert found == [[0, 2, 3, 10], [1, 5], [4], [6], [7], [8], [9]]
    assert groups(parsed([SIX] * 5), max_points=2) == [[0, 1], [2, 3], [4]]


def test_a_method_with_hooks_of_lightning_stays_alone(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyseg import NearestColour

    monkeypatch.setattr(NearestColour, "on_predict_batch_start", lambda self, *given: None, raising=False)
    assert groups(parsed([SIX] * 2)) == [[0], [1]]


def test_every_field_of_a_protocol_is_said_to_matter_or_not() -> None:
    from dataclasses import fields

    from harness import Protocol

    reading = {"resize", "size", "interpolation", "class_names", "ignore_label", "labels", "label_size"}
    assert {field.name for field in fields(Protocol)} == reading | joint_evaluation.AFTER_READING


def test_what_a_constructor_refuses_is_one_sentence(tmp_path: Path, store: Path) -> None:
    given = lines("clip_diy", tmp_path, store)[:2]
    given[1].append("--method.scale_weights=[1]")
    with pytest.raises(ConfigurationError, match="scale_weights"):
        together_in_order(parser(), parsed(given))
    assert not list(tmp_path.iterdir())
