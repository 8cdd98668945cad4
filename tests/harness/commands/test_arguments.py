"""Names of methods, data sets and protocols."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.commands import evaluate
from harness.commands.arguments import Parser, find_protocol, resolve_names
from harness.system.errors import ConfigurationError
from harness.system.plugins import DATA, METHODS, find_plugins
from tests.running import REPOSITORY, SQUARES, Outcome

BASE = [f"--config={SQUARES}", "--method.patch=2", "--method.delay=0.5"]


@pytest.fixture(scope="module")
def parser(external: Path) -> Parser:
    return evaluate.parser()


CONFIGS = REPOSITORY / "configs"
PROTOCOLS = sorted(path.stem for path in (CONFIGS / "protocols").glob("*.yaml"))
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
    names = {"method": list(find_plugins(METHODS)), "data set": list(find_plugins(DATA)), "protocol": PROTOCOLS}[kind]
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
