"""Points that differ by a method's numbers alone are not parsed anew: what comes of them is what parsing gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.commands import evaluate
from harness.commands.arguments import Parser, vary
from harness.commands.points import Points
from harness.studies.study import MIOU, Study, read_sweep, read_table
from tests.running import REPOSITORY, SQUARES

BASE = [f"--config={SQUARES}", "--method.patch=2", "--method.delay=0.5"]


@pytest.fixture(scope="module")
def parser(external: Path) -> Parser:
    return evaluate.parser()


def changed(old: str, new: str, base: list[str] = BASE) -> list[str]:
    assert old in base
    return [new if argument == old else argument for argument in base]


@pytest.mark.parametrize(
    "arguments",
    [
        BASE,
        changed("--method.patch=2", "--method.patch=8"),
        changed("--method.delay=0.5", "--method.delay=0.25"),
        changed("--method.delay=0.5", "--method.delay=0.25", changed("--method.patch=2", "--method.patch=4")),
    ],
)
def test_other_numbers_give_what_parsing_gives(arguments: list[str], parser: Parser) -> None:
    first = parser.parse_args(BASE)
    before = first.clone()
    varied = vary(BASE, first, arguments)
    assert varied == parser.parse_args(arguments)
    assert type(varied.method.init_args.patch) is int
    assert first == before


@pytest.mark.parametrize(
    ("earlier", "arguments"),
    [
        # Another kind of value, or no value that YAML takes for a number: whether it is allowed the parser knows.
        (BASE, changed("--method.patch=2", "--method.patch=2.5")),
        (BASE, changed("--method.patch=2", "--method.patch=two")),
        (BASE, changed("--method.patch=2", "--method.patch=null")),
        (BASE, changed("--method.patch=2", "--method.patch=08")),
        (BASE, changed("--method.delay=0.5", "--method.delay=1")),
        (BASE, changed("--method.patch=2", "--method.speed=3")),
        # Not the method's.
        ([*BASE, "--seed=1"], [*BASE, "--seed=2"]),
        ([*BASE, "--protocol.window=24"], [*BASE, "--protocol.window=32"]),
        # Something that comes later wins.
        ([*BASE, "--method.patch=4"], [*changed("--method.patch=2", "--method.patch=8"), "--method.patch=4"]),
        ([*BASE, f"--config={SQUARES}"], [*changed("--method.patch=2", "--method.patch=8"), f"--config={SQUARES}"]),
        # More or fewer arguments, or a value that is an argument of its own.
        (BASE, [*BASE, "--method.patch=4"]),
        ([*BASE, "--method.patch", "4"], [*BASE, "--method.patch", "8"]),
    ],
)
def test_what_only_parsing_can_tell_is_left_to_it(earlier: list[str], arguments: list[str], parser: Parser) -> None:
    assert vary(earlier, parser.parse_args(earlier), arguments) is None


CONFIGS = REPOSITORY / "configs"
STUDIES = [
    *(read_table(file) for file in sorted((CONFIGS / "tables").glob("*.yaml"))),
    *(read_sweep(file) for file in sorted((CONFIGS / "sweeps").glob("*.yaml"))),
]


@pytest.mark.parametrize("study", [each for each in STUDIES if isinstance(each, Study)], ids=lambda study: study.title)
def test_the_studies_of_the_repository(
    study: Study, parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second point, parsed after the first and on its own."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(evaluate, "parser", lambda: parser)
    first, second = study.points()[:2]
    together, alone = (Points(study.title, study.arguments, [], tmp_path) for _ in range(2))
    together.parse(*first)
    assert together.parse(*second) == alone.parse(*second)


def test_a_grid_of_numbers_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    study = read_sweep(Path("configs/sweeps/fossil_grid_miniature.yaml"))
    assert isinstance(study, Study)
    points = Points(study.title, study.arguments, ["--data.limit=2"], tmp_path)
    asked: list[list[str]] = []
    parse: Callable[..., Any] = Parser.parse_args

    def noting(parser: Parser, arguments: list[str], *others: Any, **settings: Any) -> Any:
        asked.append(arguments)
        return parse(parser, arguments, *others, **settings)

    monkeypatch.setattr(Parser, "parse_args", noting)
    parsed = [points.parse(row, MIOU) for row in study.rows]
    assert len([one for one in asked if "--data.limit=2" in one]) == 1
    numbers = [
        (p.method.init_args.num_references, p.method.init_args.num_prototypes, p.method.init_args.gamma) for p in parsed
    ]
    assert len(set(numbers)) == len({p.run_dir for p in parsed}) == len(study.rows)
    assert numbers[-1] == tuple(study.rows[-1].flags.values())
