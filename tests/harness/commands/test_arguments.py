"""Names of methods, data sets and protocols; and parsing points that differ by a method's numbers alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.commands import evaluate
from harness.commands.arguments import Parser, find_protocol, resolve_names, vary
from harness.commands.points import Points
from harness.studies.study import MIOU, Study, read_sweep, read_table
from harness.system.errors import ConfigurationError
from harness.system.plugins import DATA, METHODS, find
from tests.running import REPOSITORY, SQUARES, Outcome

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


PROTOCOLS = sorted(path.stem for path in (CONFIGS / "protocols").glob("*.yaml"))
# Arguments, the kind of thing, the wrong name, the suggested one, and the listed names.
UNKNOWN = {
    "method": (["--method", "ovdif", "--data", "miniature"], "method", "ovdif", "ovdiff"),
    "method, one word": (["--method=ovdif", "--data=miniature"], "method", "ovdif", "ovdiff"),
    "class path": (["--method.class_path", "ovdif", "--data", "miniature"], "method", "ovdif", "ovdiff"),
    "help": (["--method.help", "ovdif"], "method", "ovdif", "ovdiff"),
    "data": (["--method", "ovdiff", "--data", "miniatur"], "data set", "miniatur", "miniature"),
    "protocol": (["--config", str(SQUARES), "--protocol", "tlc"], "protocol", "tlc", "tcl"),
    "protocol, one word": (["--config", str(SQUARES), "--protocol=tlc"], "protocol", "tlc", "tcl"),
}


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("command", ["evaluate", "precompute"])
def test_an_unknown_name_gets_a_suggestion_and_the_list(case: str, command: str, ovseg: Callable[..., Outcome]) -> None:
    arguments, kind, name, suggested = UNKNOWN[case]
    outcome = ovseg(command, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    names = {"method": list(find(METHODS)), "data set": list(find(DATA)), "protocol": PROTOCOLS}[kind]
    start = f"ovseg {command}: there is no {kind} '{name}' (did you mean '{suggested}'?); {kind}s: {', '.join(names)}"
    assert outcome.err.startswith(start)


def test_an_unknown_name_in_a_file_gets_a_suggestion_too(ovseg: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: {class_path: ovdif}\n")
    outcome = ovseg("evaluate", "--config", file, "--data", "miniature")
    assert outcome.code == 2
    assert outcome.err.startswith(
        f"ovseg evaluate: {file}: there is no method 'ovdif' (did you mean 'ovdiff'?); methods:"
    )


@pytest.mark.parametrize("flag", [["--protocol", "{}"], ["--protocol={}"]])
def test_a_protocol_by_name_is_the_one_of_its_file(flag: list[str], parser: Parser) -> None:
    file = CONFIGS / "protocols" / "clip_diy_release.yaml"
    by_name, by_file = (
        parser.parse_args(resolve_names([f"--config={SQUARES}", *(part.format(value) for part in flag)])).protocol
        for value in ("clip_diy_release", file)
    )
    assert find_protocol("clip_diy_release").samefile(file)
    assert (by_name.name, by_name.size) == ("clip_diy_release", by_file.size)
    assert {key: value for key, value in vars(by_name).items() if key != "__path__"} == {
        key: value for key, value in vars(by_file).items() if key != "__path__"
    }


def test_files_and_import_paths_are_not_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("name: plain\n")
    arguments = ["--method", "methods.ClipDIY", "--data=datamodules.Folder", "--protocol", "missing/tcl.yaml"]
    arguments += ["--protocol=missing.yaml", "--protocol", '{"name": "x"}', "--protocol=plain", "--protocol.window=32"]
    assert resolve_names(arguments) == arguments
    with pytest.raises(ConfigurationError, match="there is no protocol 'missing'; protocols: clip_diy_release, "):
        resolve_names(["--protocol", "missing"])


def test_names_of_methods_and_data_become_import_paths() -> None:
    given = ["--method", "ovdiff", "--data=miniature", "--method.help", "clip_diy", "--run_dir", "ovdiff"]
    resolved = ["--method", "methods.OVDiff", "--data=miniature.datamodule.Miniature"]
    assert resolve_names(given) == [*resolved, "--method.help", "methods.ClipDIY", "--run_dir", "ovdiff"]
