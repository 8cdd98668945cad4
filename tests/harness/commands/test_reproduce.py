"""``ovseg reproduce``: every row of the papers' tables is an experiment, and what is printed comes from its run."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jsonargparse import Namespace

from harness import ConfigurationError
from harness.artifacts.stage import StageReport
from harness.commands.arguments import plain
from harness.commands.reproduce import evaluator_of, run_name
from harness.method.part import required_by
from harness.results.run_directory import differences
from harness.studies import costs
from harness.studies.readers import default_papers, paper_file, papers, read_paper, select
from harness.studies.study import Cell, CellResult, Published, Variant, mean_over_seeds
from harness.studies.tables import COMPARISON, read_comparison, write_comparison
from methods.backbones import HubViT, OpenCLIP
from methods.fossil.captions import Captions
from methods.fossil.collection import Collection
from methods.regions import Found
from methods.support.nouns import SpacyNouns
from tests.datamodules import trees
from tests.running import REPOSITORY, SQUARES, Outcome, Ranks, integers

CONFIGS = REPOSITORY / "configs" / "papers"
PAPERS = ("clip_diy", "fossil", "freeseg_diff", "ovdiff")
# How many rows x benchmarks each table reports for the paper's own method, with those run the released way.
# OVDiff's Table 3 has no "stuff" filter to take out on VOC, which has no stuff.
COUNTS = {
    "clip_diy": {"Table 1": 4 + 4, "Table 2": 6 + 6, "Table 3": 12 + 12, "Table 4": 3 + 3},
    "fossil": {"Table 1": 4, "Table 2": 3},
    # Table 1 has baselines, too: four cells that run and 25 as published. The release runs all other tables as well.
    "freeseg_diff": {
        "Table 1": 4 + 4 + 4 + 25,
        "Table 2": 2 * 4,
        "Table 3": 2 * 4,
        "Table 4": 2 * 12,
        "Table 5": 2 * 3,
        "Table 6": 2 * 36,
        "Table 7": 2 * 18,
    },
    # In Figure 5 one per N; in Section A.3 one per benchmark.
    "ovdiff": {"Table 1": 9 + 1, "Table 2": 6, "Table 3": 13, "Figure 5": 6, "Section A.3": 5},
}


CELLS = {f"{paper}/{cell.name}": cell for paper in PAPERS for cell in read_paper(CONFIGS / f"{paper}.yaml")}


def of_clusters(name: str) -> bool:
    """Whether a cell is another one's with K = 3 or 5 in the place of 4."""
    return name.startswith("freeseg_diff/") and ("k3_" in name or "k5_" in name)


def published(name: str) -> Published:
    """What is published for a cell."""
    found = CELLS[name].published
    assert found is not None
    return found


class Task(NamedTuple):
    """A cell, parsed."""

    cell: Cell
    parsed: Namespace
    run: str

    @property
    def published(self) -> Published:
        assert self.cell.published is not None
        return self.cell.published


def parse(cell: Cell, *flags: str) -> Task:
    parsed = evaluator_of(Path("runs"), flags, None).parse(cell)
    return Task(cell, parsed, parsed.run_dir.name)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    """The cells, parsed as ``ovseg evaluate`` would; those of another K are like their siblings, see below."""
    evaluator = evaluator_of(Path("runs"), [], None)
    parsed = {name: evaluator.parse(cell) for name, cell in CELLS.items() if not of_clusters(name) and not cell.quoted}
    return {name: Task(CELLS[name], each, each.run_dir.name) for name, each in parsed.items()}


def settings(task: Task) -> dict[str, Any]:
    """All that determines a cell's integers."""
    return {key: plain(task.parsed[key]) for key in ("method", "data", "protocol", "seed")}


def changed(tasks: dict[str, Task], base: str, row: str) -> set[str]:
    """The settings in which a row differs from another one, by the last part of their names."""
    found = differences(settings(tasks[base]), settings(tasks[row]))
    return {each.partition(":")[0].replace(".init_args", "").replace(".class_path", "") for each in found}


def test_every_table_has_its_rows() -> None:
    found = {
        paper: Counter(published(name).table for name in CELLS if name.startswith(f"{paper}/")) for paper in PAPERS
    }
    assert found == COUNTS
    for name in CELLS:
        each = published(name)
        paper, table, row, _ = name.split("/")
        assert each.paper == paper, name
        assert table.removesuffix("_release").replace("_", "") == re.sub("[^a-z0-9]", "", each.table.lower()), name
        # Numbers that our copy of the paper has only as a picture, or not at all.
        assert (each.value is None) == (paper == "ovdiff" and each.table != "Table 1"), name
        assert CELLS[name].seeds == ((42, 43, 44, 45, 46) if name.startswith("ovdiff/table1/") else ()), name
        released = row.endswith("release") or table.endswith("_release")
        assert (each.score == "per_image_miou") == (paper == "freeseg_diff" and released), name
    for paper in PAPERS:
        assert (CONFIGS / f"{paper}.yaml").read_text().startswith("# "), paper


def test_rows_of_another_k_differ_in_it_alone() -> None:
    others = [name for name in CELLS if of_clusters(name)]
    assert len(others) == 2 * 44
    for name in others:
        clusters = 3 if "k3_" in name else 5
        mine, sibling = dict(CELLS[name].overrides), name.replace(f"k{clusters}_", "k4_")
        assert mine.pop("method.regions.num_clusters") == clusters, name
        assert mine == dict(CELLS[sibling].overrides), name
        assert published(name).row == published(sibling).row.replace("K = 4", f"K = {clusters}"), name


@pytest.mark.slow
def test_rows_of_another_k_parse() -> None:
    evaluator = evaluator_of(Path("runs"), [], None)
    for name in filter(of_clusters, CELLS):
        parsed = evaluator.parse(CELLS[name])
        assert parsed.method.init_args.regions.init_args.num_clusters == (3 if "k3_" in name else 5)


def test_equal_experiments_share_a_run_and_no_others(tasks: dict[str, Task]) -> None:
    by_run: dict[str, list[str]] = {}
    for name, task in tasks.items():
        by_run.setdefault(task.run, []).append(name)
    for names in by_run.values():
        assert all(settings(tasks[names[0]]) == settings(tasks[name]) for name in names)
        # One experiment has one number, wherever a paper prints it, but for Table 3's random subset of VOC.
        values = [tasks[name].published for name in names if not name.startswith("freeseg_diff/table3")]
        assert len({each.value for each in values if each.value is not None}) <= 1, names
    together = by_run[tasks["clip_diy/table2/full/voc21"].run]
    assert {"clip_diy/table1/vitb32/voc21", "clip_diy/table4/found/voc21"} <= set(together)
    assert tasks["clip_diy/table1/vitb16/voc21"].run not in {tasks[name].run for name in together}


def test_rows_change_what_their_tables_name_and_nothing_else(tasks: dict[str, Task]) -> None:
    base = "freeseg_diff/table1/freeseg_diff/voc21"
    for name in tasks:
        table = name.split("/")[1]
        if name.startswith("freeseg_diff/") and name.endswith("/voc21") and table in ("table4", "table6", "table7"):
            allowed = {"method.regions.num_clusters", "method.regions.extractor.layers", "method.refiner"}
            allowed |= {"method.regions.extractor.attention_layers", "method.relative"}
            assert all(any(key.startswith(each) for each in allowed) for key in changed(tasks, base, name)), name
    assert changed(tasks, base, "freeseg_diff/table5/grid08/voc21") == {"method.regions.extractor.grid"}
    assert changed(tasks, base, "freeseg_diff/table2/blip/voc21") == {"method.refiner"}
    for scales in ("0", "01", "0123", "01234", "123"):
        row = f"clip_diy/table3/scales_{scales}/coco_object"
        assert changed(tasks, "clip_diy/table1/vitb32/coco_object", row) == {"method.patch_sizes"}
    released = {"method.overlap", "method.placement", "method.saliency_input"}
    for name in tasks:
        if name.startswith("clip_diy/") and "_release/" in name:
            keys = {
                key for key in changed(tasks, name.replace("_release", ""), name) if not key.startswith("protocol.")
            }
            assert keys == released | ({"data"} if name.endswith("/coco_object") else set()), name
    full = "ovdiff/table3/full/context60"
    for row, keys in {
        "background_prototypes": {"method.background"},  # 0.72 is the method's default
        "instance_prototypes": {"method.levels"},
        "part_prototypes": {"method.levels"},
        "category_filter": {"method.clip"},
        "stuff_filter": {"method.stuff_similarity_threshold"},
        "cutler": {"method.segmenter"},
    }.items():
        assert changed(tasks, full, f"ovdiff/table3/without_{row}/context60") == keys
    threshold = settings(tasks["ovdiff/table3/without_background_prototypes/voc21"])["method"]["init_args"]
    assert threshold["background_threshold"] == 0.72


def test_the_released_way_differs_from_the_paper_s_as_table_1_says(tasks: dict[str, Task]) -> None:
    """Each row of a table of the release is that of the paper's table with Table 1's differences, and its own."""
    release = changed(tasks, "freeseg_diff/table1/freeseg_diff/voc21", "freeseg_diff/table1/release/voc21")
    assert {
        "data.void",
        "method.view",
        "method.keywords",
        "method.nouns.adjectives",
        "method.captioner.name",
    } <= release
    for name in tasks:
        _, table, row, column = name.split("/")
        if not table.endswith("_release"):
            continue
        paper = f"freeseg_diff/{table.removesuffix('_release')}/{row}/{column}"
        assert tasks[name].published == replace(tasks[paper].published, score="per_image_miou"), name
        # What a row takes out is no difference; attention is, as features are, of blocks or their queries.
        found = changed(tasks, paper, name)
        assert found <= release | {"method.regions.extractor.attention_layers"}, name
        # Neither the other backbones' kind of features nor what COCO has instead of VOC belongs to a row.
        apart = {"data", "data.void", "method.regions.extractor.kind"}
        base = changed(tasks, "freeseg_diff/table1/release/voc21", name) - apart
        assert base == changed(tasks, "freeseg_diff/table1/freeseg_diff/voc21", paper) - apart, name


def test_coco27_is_scored_with_unlabeled_and_asked_for_by_members(tasks: dict[str, Task]) -> None:
    cells = [name for name in CELLS if name.startswith("freeseg_diff/") and name.endswith("/coco27")]
    cells = [name for name in cells if not CELLS[name].quoted and "maskclip" not in name]
    # Table 1 twice, six rows of Table 4, and these the released way.
    assert len(cells) == 2 + 6 + 6
    for name in cells:
        assert Path(CELLS[name].overrides["data"]).stem == "coco27_unlabeled", name
        if name in tasks:
            assert settings(tasks[name])["method"]["init_args"]["fine_names"] is True, name


def test_blocks_have_the_resolution_that_they_are_named_by(tasks: dict[str, Task]) -> None:
    """Stable Diffusion at 512 pixels: 64 x 64 latents, halved by every block down, doubled by every block up."""
    for name, task in tasks.items():
        if task.published.table not in ("Table 4", "Table 6", "Table 7") or task.published.paper != "freeseg_diff":
            continue
        extractor = settings(task)["method"]["init_args"]["regions"]["init_args"]["extractor"]["init_args"]
        wanted = {int(part) for part in task.published.row.partition(",")[0].split("+")}
        # The release takes queries of attention blocks.
        features = "attentions" if name.split("/")[1].endswith("_release") else "resnets"
        for key, kind in (("layers", features), ("attention_layers", "attentions")):
            places = [layer.split(".") for layer in extractor[key]]
            assert all(place[2] == kind for place in places), name
            seen = {64 >> int(block) if way == "down_blocks" else 8 << int(block) for way, block, *_ in places}
            with_attention = "A + F" in task.published.row
            assert seen == (wanted if key == "layers" or with_attention else set()), name
            assert len(set(extractor[key])) == len(extractor[key]) == 5 * len(seen), name
        # What "A" is: attention to the classes' texts.
        assert extractor["attention"] == "classes", name
        clusters = settings(task)["method"]["init_args"]["regions"]["init_args"]["num_clusters"]
        assert f"K = {clusters}," in task.published.row, name


def test_fossil_has_table_3s_hyper_parameters(tasks: dict[str, Task]) -> None:
    expected = {"context59": (70, 10, 0.7), "coco_stuff": (95, 25, 0.5), "ade20k": (150, 10, 0.5)}
    expected["cityscapes"] = (95, 30, 0.55)
    for data, values in expected.items():
        method = settings(tasks[f"fossil/table1/fossil/{data}"])["method"]["init_args"]
        assert (method["num_references"], method["num_prototypes"], method["gamma"]) == values


# The command, with another person's method and data in the place of a paper's.


def row(title: str, value: float | None, overrides: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A row of one cell."""
    return {"title": title, "set": overrides or {}, "published": {"squares": {"value": value, **more}}}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A paper's file: three rows that run, one of which is the same experiment as another, and one without its data."""
    folder = tmp_path / "papers"
    folder.mkdir()
    rows = {
        "a_patch4": row("a", 90.0, tolerance=40.0),
        "b_patch16": row("b", 1.25, {"method.patch": 16}, tolerance=0.5, score="per_image_miou", deviation=0.2),
        "c_same": row("c", None),
        "d_voc": row("d", 50.0, {"data": "datamodules.VOC21"}),
    }
    table = {"title": "Table 1", "columns": {"squares": {"title": "squares | <b>"}}, "rows": rows}
    content = {"title": "Squares", "set": {"config": str(SQUARES)}, "tables": {"t": table}}
    (folder / "squares.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def edit(configs: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the rows of the table."""
    file = configs / "squares.yaml"
    content = yaml.safe_load(file.read_text())
    change(content["tables"]["t"]["rows"])
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def test_measured_stands_beside_published(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = ["reproduce", "squares", "--configs", configs, "--run_dir", folder, "--data_root", tmp_path / "none"]
    done = ovseg(*line)
    assert done.code == 0, done.err
    assert "did not run: t/d_voc/squares: voc21: the folder" in done.out
    found = {each["row"]: each for each in json.loads((folder / "table.json").read_text())["found"]}
    assert list(found) == [f"t/{name}/squares" for name in ("a_patch4", "b_patch16", "c_same")]
    for each in found.values():
        results = json.loads((folder / each["run"] / "results.json").read_text())
        assert (each["miou"], each["per_image_miou"]) == (results["miou"], results["per_image_miou"])
        assert each["whole"]
        assert each["hardware"].startswith("cpu: ")
    assert found["t/a_patch4/squares"]["run"] == found["t/c_same/squares"]["run"] != found["t/b_patch16/squares"]["run"]
    assert len(list(folder.glob("*/results.json"))) == 2
    first, second, third = (found[f"t/{name}/squares"] for name in ("a_patch4", "b_patch16", "c_same"))
    assert first["difference"] == first["miou"] - 90
    assert first["within"] is True
    assert second["difference"] == pytest.approx(second["per_image_miou"] - 1.25)
    assert second["per_image_miou"] != second["miou"]
    assert second["within"] is False
    assert (third["difference"], third["within"]) == (None, None)
    rows = list(csv.reader((folder / "table.csv").open()))
    assert tuple(rows[0]) == COMPARISON
    measured = f"{second['per_image_miou']:.2f}"
    assert rows[2][1:5] == ["squares | <b>", "per-image mean IoU", "1.25 ± 0.2", measured]
    assert rows[2][6] == "no (±0.5)"
    assert "squares \\| <b>" in (folder / "table.md").read_text()
    # Again, one row alone: nothing is predicted, and the table keeps the others.
    before = (folder / "table.json").read_bytes()
    seconds = {file: json.loads(file.read_text())["seconds"] for file in folder.glob("*/results.json")}
    assert ovseg(*line[:1], "squares/t/b_patch16", *line[2:]).code == 0
    assert (folder / "table.json").read_bytes() == before
    assert {file: json.loads(file.read_text())["seconds"] for file in folder.glob("*/results.json")} == seconds


def test_a_cell_with_seeds_is_their_mean_and_deviation(
    configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    seeded = {"method": "tinyseg.SeededColour"}
    one = {**row("e", 60.0, {**seeded, "method.seed": 4}, tolerance=50.0)}
    many = {**row("f", 60.0, seeded, deviation=0.2, tolerance=50.0), "seeds": [3, 4, 5]}
    edit(configs, lambda rows: (rows.clear(), rows.update(e_one=one, f_many=many)))
    folder = tmp_path / "out"
    line = ["reproduce", "squares", "--configs", configs, "--run_dir", folder]
    planned = ovseg(*line, "--dry_run")
    assert planned.code == 0, planned.err
    assert "mean over the seeds 3, 4, 5: t/f_many/squares\n" in planned.out
    assert "60.00 ± 0.2" in planned.out
    done = ovseg(*line)
    assert done.code == 0, done.err
    # The run of seed 4 is the other row's, too.
    scores = {}
    for file in folder.glob("*/results.json"):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        scores[config["method"]["init_args"]["seed"]] = json.loads(file.read_text())["miou"]
    assert sorted(scores) == [3, 4, 5]
    assert len(set(scores.values())) == 3
    mean = sum(scores.values()) / 3
    deviation = (sum((score - mean) ** 2 for score in scores.values()) / 2) ** 0.5
    single, found = json.loads((folder / "table.json").read_text())["found"]
    assert (single["miou"], single["deviation"], single["per_seed"]) == (scores[4], None, [])
    assert (found["miou"], found["deviation"]) == (pytest.approx(mean), pytest.approx(deviation))
    assert [(each["seed"], each["miou"]) for each in found["per_seed"]] == sorted(scores.items())
    assert found["difference"] == pytest.approx(mean - 60)
    _, _, line_of_cell = csv.reader((folder / "table.csv").open())
    assert line_of_cell[3] == "60.00 ± 0.2"
    assert line_of_cell[4] == f"{mean:.2f} ± {deviation:.2f} (3 seeds)"
    assert line_of_cell[7] == f"{mean:.2f} ± {deviation:.2f}"
    assert f"{mean:.2f} ± {deviation:.2f} (3 seeds)" in done.out
    # Again: the table is read and written as it was. One seed on the command line, and one that cannot be meant.
    before = (folder / "table.json").read_bytes()
    assert ovseg(*line).code == 0
    assert (folder / "table.json").read_bytes() == before
    alone = ovseg(*line[:1], "squares/t/f_many", *line[2:], "--seeds", "5")
    assert alone.code == 0, alone.err
    assert f"{scores[5]:.2f} (1 seed)" in alone.out
    wrong = ovseg(*line, "--method.seed", "7")
    assert wrong.code == 2
    assert "t/f_many/squares" in wrong.err
    assert "give --seeds" in wrong.err


def test_seeds_that_mean_nothing_are_said(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    line = ["reproduce", "squares/t/a_patch4", "--configs", configs, "--run_dir", tmp_path / "out"]
    failed = ovseg(*line, "--seeds", "1,2")
    assert failed.code == 2
    assert "NearestColour has no seed, so all runs would be equal" in failed.err
    for seeds in ("3", [3, 3], [1.5], [True]):
        edit(configs, lambda rows, seeds=seeds: rows["a_patch4"].update(seeds=seeds))
        failed = ovseg(*line)
        assert failed.code == 2
        assert "t/a_patch4/squares: 'seeds' is a list of distinct whole numbers" in failed.err
    # What is closer to the cell wins; a quoted row has no runs.
    content = yaml.safe_load((configs / "squares.yaml").read_text())
    content["seeds"], content["tables"]["t"]["rows"]["a_patch4"]["seeds"] = [1, 2], []
    content["tables"]["t"]["rows"]["b_patch16"]["published"]["squares"]["seeds"] = [9]
    content["tables"]["t"]["rows"]["d_voc"]["quoted"] = True
    (configs / "squares.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert [cell.seeds for cell in read_paper(configs / "squares.yaml")] == [(), (9,), (1, 2), ()]


def test_a_run_that_fails_leaves_its_cell_without_a_score() -> None:
    cell = Cell(Variant("r"), Variant("c"), "t/r/c", {}, Published("p", "t", "r", "c", 50.0), seeds=(1, 2))
    runs = [CellResult(run, run=f"run-{run.seed}", miou=50.0 + run.seed, images=3) for run in cell.per_seed()]
    assert mean_over_seeds(cell, runs).miou == 51.5
    assert mean_over_seeds(cell, runs).deviation("miou") == pytest.approx(0.5**0.5)
    failed = replace(runs[1], run=None, miou=None, why="no room")
    assert mean_over_seeds(cell, [runs[0], failed]).why == "seed 2: no room"
    assert mean_over_seeds(cell, [replace(each, run=None, why="no room") for each in runs]).why == "no room"
    undefined = mean_over_seeds(cell, [runs[0], replace(runs[1], miou=None)])
    assert (undefined.miou, undefined.deviation("miou"), undefined.within) == (None, None, None)


def test_nothing_that_can_run_is_exit_code_2(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    failed = ovseg("reproduce", "squares/t/d_voc", "--configs", configs, "--run_dir", tmp_path / "out")
    assert failed.code == 2
    assert failed.out.splitlines()[1].startswith("did not run: t/d_voc/squares: voc21: ")


@pytest.mark.parametrize("given", ["--run_dir", "--rates"])
def test_a_wrong_path_is_said(given: str, configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = {"--run_dir": tmp_path / "file" / "below", "--rates": tmp_path / "none.json"}[given]
    failed = ovseg("reproduce", "squares/t/a_patch4", "--configs", configs, given, wrong)
    assert failed.code == 2
    assert f"{given} {wrong} " in failed.err


def test_what_is_quoted_is_printed_and_not_run(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    edit(configs, lambda rows: rows.update(e_quoted={**row("else", 12.5), "quoted": True}))
    folder = tmp_path / "out"
    for what, rows in (("squares/t/e_quoted", ["e_quoted"]), ("squares/t/c_same", ["c_same", "e_quoted"])):
        done = ovseg("reproduce", what, "--configs", configs, "--run_dir", folder)
        assert done.code == 0, done.err
        assert [each["row"] for each in json.loads((folder / "table.json").read_text())["found"]] == [
            f"t/{name}/squares" for name in rows
        ]
    line = list(csv.reader((folder / "table.csv").open()))[2]
    assert (line[3], line[4], line[9]) == ("12.50", "-", "")
    dry = ovseg("reproduce", "squares", "--configs", configs, "--run_dir", folder, "--dry_run")
    assert dry.code == 0, dry.err
    assert "given as published only: t/e_quoted/squares\n" in dry.out
    assert "of 4 rows can run here" in dry.out
    edit(configs, lambda rows: rows["e_quoted"].update(tabel=1))
    wrong = ovseg("reproduce", "squares", "--configs", configs, "--run_dir", folder)
    assert wrong.code == 2
    assert "squares.yaml: t/e_quoted: unknown setting 'tabel'" in wrong.err


@pytest.mark.parametrize("columns", [None, "80"])
def test_tables_cut_nothing(
    columns: str | None,
    configs: Path,
    ovseg: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a pipe, which has no width, and in a terminal of 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    line = ["reproduce", "squares/t/b_patch16", "--configs", configs, "--run_dir", tmp_path / "out"]
    for done in (ovseg(*line), ovseg(*line, "--dry_run")):
        assert done.code == 0, done.err
        assert "…" not in done.out
        table = [each for each in done.out.splitlines() if each.startswith("│")]
        assert all(text in "\n".join(table) for text in ("b_patch16", "squares | <b>", "1.25"))
        assert len(table) == (1 if columns is None else 2)


def test_a_part_of_the_images_is_no_verdict(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    line = ["reproduce", "squares/t/a_patch4", "--configs", configs, "--run_dir", tmp_path, "--data.limit", 2]
    assert ovseg(*line).code == 0
    (found,) = json.loads((tmp_path / "table.json").read_text())["found"]
    assert (found["images"], found["whole"], found["within"]) == (2, False, None)
    assert next(csv.reader([(tmp_path / "table.csv").read_text().splitlines()[1]]))[6] == "part"


def test_two_ranks_find_the_same(configs: Path, ranks: Ranks, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    line = ["reproduce", "squares", "--configs", str(configs), "--run_dir"]
    assert ovseg(*line, tmp_path / "one").code == 0
    both = ranks.ovseg(2, *line, str(tmp_path / "two"))
    assert [each.code for each in both] == [0, 0], both[0].err + both[1].err
    # Rank 0 alone prints, also about a row that failed before the ranks met.
    assert both[0].out.count("did not run: t/d_voc/squares") == 1
    assert both[1].out == ""
    runs = {file.parent.name for file in (tmp_path / "one").glob("*/results.json")}
    assert runs == {file.parent.name for file in (tmp_path / "two").glob("*/results.json")}
    for run in runs:
        assert integers(tmp_path / "one" / run) == integers(tmp_path / "two" / run)


def test_a_wrong_row_stops_all_before_the_first(configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    edit(configs, lambda rows: rows.update(e_wrong=row("e", 1.0, {"method.patchh": 3})))
    failed = ovseg("reproduce", "squares", "--configs", configs, "--run_dir", tmp_path / "out")
    assert failed.code == 2
    assert "t/e_wrong/squares" in failed.err
    assert not (tmp_path / "out").exists()
    edit(configs, lambda rows: rows["e_wrong"].pop("published"))
    assert "needs 'published'" in ovseg("reproduce", "squares", "--configs", configs).err


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("square", "no paper 'square' (did you mean 'squares'?)"),
        ("squares/t/a_patch", "no row 't/a_patch' (did you mean 't/a_patch4'?)"),
        ("squares/s", "no table 's'"),
        ("squares/t/a_patch4/square", "no cell 't/a_patch4/square' (did you mean 't/a_patch4/squares'?)"),
        ("squares/../../squares", "no cell '../../squares'"),
        ("../papers/squares", "no paper '..'"),
        ("squares/", "no table ''"),
        (".", "no paper '.'"),
    ],
)
def test_only_names_in_the_file_are_cells(wanted: str, said: str, configs: Path) -> None:
    def chosen() -> list[Cell]:
        paper, slash, selection = wanted.partition("/")
        return select(paper, selection if slash else None, read_paper(paper_file(paper, configs)))

    with pytest.raises(ConfigurationError) as error:
        chosen()
    assert said in str(error.value)


def test_the_configs_of_the_checkout_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(papers(default_papers())) == {*PAPERS, "baselines", "miniature"}
    (tmp_path / "configs" / "papers").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="--configs"):
        papers(default_papers())


def test_flags_that_change_no_integer_change_no_directory() -> None:
    (cell,) = select("miniature", "readme/clip_diy", read_paper(CONFIGS / "miniature.yaml"))

    def name(*flags: str) -> str:
        return run_name(parse(cell, *flags).parsed)

    assert name() == name("--data.batch_size=3", "--trainer.devices=2")
    assert len({name(), name("--method.overlap=0.5"), name("--data.limit=9"), name("--protocol.stride=24")}) == 4
    assert name("--trainer.precision=bf16") != name()


def test_published_numbers_are_percentages() -> None:
    with pytest.raises(ConfigurationError, match="percentages"):
        Published("p", "t", "r", "b", 101.0)
    with pytest.raises(ConfigurationError, match="tolerance"):
        Published("p", "t", "r", "b", 50.0, tolerance=0.0)


# What a dry run says.


def test_a_dry_run_names_what_is_missing_and_runs_nothing(
    configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    rates = tmp_path / "rates.json"
    rate = {"method": "tinyseg.NearestColour", "image": 3600.0, "stages": [], "experiment": "x.yaml"}
    rates.write_text(json.dumps({"schema": 1, "hardware": "cpu: slow, 1 thread", "rates": [rate]}))
    line = ["reproduce", "squares", "--configs", configs, "--run_dir", tmp_path / "out", "--dry_run", "--rates", rates]
    said = ovseg(*line, "--data_root", tmp_path)
    assert said.code == 0, said.err
    assert not (tmp_path / "out").exists()
    assert f"missing data: voc21: the folder {tmp_path}/VOCdevkit/VOC2012/JPEGImages is missing" in said.out
    assert "3 of 4 rows can run here: t/a_patch4/squares, t/b_patch16/squares, t/c_same/squares" in said.out
    # Five squares a row at an hour each; VOC's 1449 images are known without having them.
    assert "CPU-hours on slow, 1 thread" in said.out
    assert "GPU" not in said.out
    assert f"about {3 * 5 + 1449}.00 for the images of 4 rows" in said.out
    trees.voc(tmp_path)
    assert "4 of 4 rows can run here" in ovseg(*line, "--data_root", tmp_path).out


def test_needs_are_read_off_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    (tmp_path / "head.pt").touch()

    given = {
        "clip": OpenCLIP("ViT-B-32", "laion2b_s34b_b79k"),
        "own": OpenCLIP("local-dir:./clip"),
        "random": OpenCLIP("ViT-B-32"),
        "both": [Found(HubViT("./vit"), "./head.pt"), HubViT("org/model", revision="v2")],
        "collection": Collection(Captions("./captions.json"), SpacyNouns("en_core_web_sm_of_nobody")),
        "again": HubViT("org/model"),
    }
    found = {(need.kind, need.name): need for need in required_by(given, "--method")}
    assert {key: need.missing is None for key, need in found.items()} == {
        ("model", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"): False,
        ("model", "./clip"): False,
        ("model", "./vit"): True,
        ("file", "./head.pt"): True,
        ("model", "org/model"): False,
        ("file", "./captions.json"): False,
        ("package", "en_core_web_sm_of_nobody"): False,
    }
    assert "hf download org/model --revision v2" in str(found["model", "org/model"].missing)
    assert "--method.collection.captions.path" in str(found["file", "./captions.json"].missing)


def test_a_model_is_here_when_the_cache_has_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = HubViT("org/model")
    snapshot = tmp_path / "models--org--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--model" / "refs").mkdir()
    (tmp_path / "models--org--model" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    (need,) = model.requires()
    assert "weights are not in the Hub's cache" in str(need.missing)
    (snapshot / "unet").mkdir()
    (snapshot / "unet" / "model.safetensors").write_bytes(b"")
    (need,) = model.requires()
    assert need.missing is None


def test_hours_count_what_is_made_once_once() -> None:
    stages = (costs.StageRate("sets", 3600, 20, "class"), costs.StageRate("shards", 1800, 4, "once"))
    rates = [
        costs.Rate("m.M", "cuda: fast", 36, stages, "old"),
        costs.Rate("m.M", "cuda: fast", 18, (), "new, everything was there"),
        costs.Rate("m.M", "cpu: slow, 1 thread", 1, (), "last"),
    ]
    plans = [
        costs.Plan("a", "m.M", 200, ("cat", "dog")),
        costs.Plan("b", "m.M", 100, ("dog", "cow")),
        costs.Plan("c", "m.M", None, ("hen",)),
        costs.Plan("d", "m.Other", 5, ("cat",)),
    ]
    found = costs.estimate(plans, rates)
    assert found.image_hours == {"a": 1.0, "b": 0.5}
    assert found.precompute == {"m.M": 3 + 2}
    assert found.used["m.M"].source == "new, everything was there"
    # Each seed has images and support sets of its own; what another plan makes with one of them is shared.
    seeded = [costs.Plan("e", "m.M", 100, ("cat",), (1, 2)), costs.Plan("f", "m.M", 100, ("cat", "dog"), (2,))]
    assert costs.estimate(seeded, rates).image_hours == {"e": 1.0, "f": 0.5}
    assert costs.estimate(seeded, rates).precompute == {"m.M": 3 + 2}
    assert costs.unit("cuda: H200") == "GPU-hours on H200"
    assert costs.unit("cpu: slow, 1 thread") == "CPU-hours on slow, 1 thread"


def test_a_run_is_a_rate_for_the_next_dry_run(
    configs: Path, ovseg: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    line = ["reproduce", "squares/t/b_patch16", "--configs", configs, "--run_dir", tmp_path / "out"]
    (tmp_path / "none.json").write_text(json.dumps({"hardware": "none", "rates": []}))
    rates = ["--rates", tmp_path / "none.json"]
    assert "no rate was measured for tinyseg.NearestColour" in ovseg(*line, *rates, "--dry_run").out
    assert ovseg(*line).code == 0
    assert "an image by the run of t/b_patch16/squares" in ovseg(*line, *rates, "--dry_run").out


def test_only_stages_made_whole_have_a_rate() -> None:
    made = StageReport("sets", 4, (3, 1), 0, 10.0)
    some = StageReport("masks", 4, (3, 0), 0, 10.0)
    assert costs.stages_of([made, some], 4) == ({"name": "sets", "seconds": 5.0, "items": 4, "per": "class"},)
    assert costs.stages_of([made], 9)[0]["per"] == "once"


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    published = Published("p", "t", "r", "b", 50.0, 1.0, "per_image_miou", 0.2, 70.0)
    cell = Cell(Variant("r"), Variant("b"), "t/r/b", {}, published)
    measured: dict[str, Any] = {"miou": 40.0, "per_image_miou": 49.5, "pixel_accuracy": 80.0, "images": 10}
    one = CellResult(cell, "run", **measured, method="m.M", hardware="cuda: X", seconds=3.5, stages=({"name": "s"},))
    write_comparison(tmp_path, "p", [one])
    assert read_comparison(tmp_path, [cell]) == {"t/r/b": one}
    assert one.within is True
    assert CellResult(cell, miou=50.0, per_image_miou=51.1).within is False
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="--run_dir"):
        read_comparison(tmp_path, [cell])


def test_a_shared_pass_is_no_rate() -> None:
    cell = Cell(Variant("r"), Variant("b"), "t/r/b", {})
    alone = CellResult(cell, "run", images=10, method="m.M", hardware="cpu: x", seconds=5.0)
    assert [rate.image for rate in costs.of_runs([alone, replace(alone, joint=True)])] == [0.5]
