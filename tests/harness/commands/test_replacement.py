"""A part that is given anew is the new one whole: nothing of the old one's settings is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.commands import evaluate
from harness.commands.arguments import Parser, plain
from harness.studies.readers import read_table
from tests.running import REPOSITORY

CONFIGS = REPOSITORY / "configs"
MODELS = CONFIGS / "models"
DENSE = "methods.backbones.DenseFeatures"
OVDIFF = [
    f"--protocol={CONFIGS / 'protocols' / 'tcl.yaml'}",
    f"--method={CONFIGS / 'methods' / 'ovdiff.yaml'}",
    f"--data={CONFIGS / 'data' / 'voc21.yaml'}",
]
VIT: dict[str, Any] = {"class_path": "methods.backbones.HubViT", "init_args": {"name": "facebook/dinov2-base"}}


@pytest.fixture(scope="module")
def parser() -> Parser:
    return evaluate.parser()


def method(parser: Parser, *arguments: str) -> dict[str, Any]:
    settings: dict[str, Any] = plain(parser.parse_args([*OVDIFF, *arguments]).method)["init_args"]
    return settings


def choices(part: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(part["init_args"][name] for name in ("kind", "layer", "size"))


# CLIP's keys of ovdiff.yaml are of layer -2 at 448 pixels; DenseFeatures' defaults are tokens, layer -1, no resize.
NEW = [
    f"--method.extractors={{clip: {MODELS / 'dinov2_vitb14.yaml'}}}",
    f"--method.extractors.clip={MODELS / 'dinov2_vitb14.yaml'}",
    f"--method.extractors={json.dumps({'clip': {'class_path': DENSE, 'init_args': {'backbone': VIT}}})}",
    f"--method.extractors.clip={json.dumps({'class_path': DENSE, 'init_args': {'backbone': VIT}})}",
]


@pytest.mark.parametrize("argument", NEW, ids=["mapping of files", "file by name", "mapping of classes", "class"])
def test_of_a_mapping_of_parts_one_is_replaced_whole(argument: str, parser: Parser) -> None:
    found = method(parser, argument)["extractors"]["clip"]
    assert choices(found) == ("token", -1, None)
    assert found["init_args"]["backbone"]["init_args"]["name"] == "facebook/dinov2-base"


def test_one_file_gives_one_part_under_any_name(parser: Parser) -> None:
    file = MODELS / "clip_vitb16_tokens.yaml"
    assert choices(yaml.safe_load(file.read_text())) == ("token", -1, 448)
    same, other = (method(parser, f"--method.extractors={{{name}: {file}}}")["extractors"] for name in ("clip", "x"))
    assert same["clip"] == other["x"]
    assert choices(same["clip"]) == ("token", -1, 448)


def test_a_part_by_its_name_leaves_the_others_alone(parser: Parser) -> None:
    before, after = method(parser), method(parser, NEW[1])
    assert list(after["extractors"]) == ["sd", "dino", "clip"]
    assert all(after["extractors"][name] == before["extractors"][name] for name in ("sd", "dino"))


@pytest.mark.parametrize(
    "argument",
    [
        "methods.backbones.DiffusersTextToImage",
        '{"class_path": "methods.backbones.DiffusersTextToImage"}',
        str(MODELS / "lcm_generator.yaml"),
    ],
)
def test_a_single_part_of_the_same_class_is_replaced_whole(argument: str, parser: Parser) -> None:
    assert method(parser)["generator"]["init_args"]["negative_prompt"].startswith("text, low quality")
    assert method(parser, f"--method.generator={argument}")["generator"]["init_args"]["negative_prompt"] == ""


def test_an_import_path_alone_has_the_defaults_of_its_class(parser: Parser) -> None:
    changed = '{"class_path": "methods.refinement.PAMR", "init_args": {"iterations": 3}}'
    for given in ("--method.refiner", "--method.refiner.class_path"):
        found = method(parser, f"--method.refiner={changed}", f"{given}=methods.refinement.PAMR")["refiner"]
        assert found["init_args"]["iterations"] == 10
    assert method(parser, f"--method.refiner={changed}", "--method.refiner=null")["refiner"] is None


def test_parts_inside_parts_are_replaced_whole(parser: Parser) -> None:
    given = json.dumps({"class_path": "methods.backbones.OpenCLIP", "init_args": {"name": "ViT-B-16"}})
    found = method(parser, f"--method.extractors.clip.backbone.clip={given}")["extractors"]["clip"]
    assert choices(found) == ("key", -2, 448)
    assert found["init_args"]["backbone"]["init_args"]["clip"]["init_args"]["pretrained"] is None
    file = MODELS / "openclip_vit_b16.yaml"
    found = method(parser, f"--method.extractors.clip.backbone.clip={file}")["extractors"]["clip"]
    assert choices(found) == ("key", -2, 448)
    assert found["init_args"]["backbone"]["init_args"]["clip"]["init_args"]["pretrained"] == "laion2b_s34b_b88k"


@pytest.mark.parametrize(
    "argument",
    [
        "--method.extractors.clip.layer=-3",
        '--method.extractors={"clip": {"layer": -3}}',
        '--method.extractors={"clip": {"init_args": {"layer": -3}}}',
    ],
)
def test_what_names_no_class_changes_single_settings(argument: str, parser: Parser) -> None:
    assert choices(method(parser, argument)["extractors"]["clip"]) == ("key", -3, 448)
    steps = method(parser, '--method.generator={"steps": 4}')["generator"]["init_args"]
    assert (steps["steps"], steps["guidance"], steps["precision"]) == (4, 8.0, "float16")


def test_a_later_setting_changes_the_new_part(parser: Parser) -> None:
    found = method(parser, NEW[1], "--method.extractors.clip.kind=key")["extractors"]["clip"]
    assert choices(found) == ("key", -1, None)


def test_a_file_of_settings_replaces_parts_whole(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "vit.yaml").write_text(yaml.safe_dump({"class_path": DENSE, "init_args": {"backbone": VIT}}))
    file = tmp_path / "more.yaml"
    inner = {"extractors": {"clip": "vit.yaml"}, "generator": {"class_path": "methods.backbones.DiffusersTextToImage"}}
    file.write_text(yaml.safe_dump({"method": {"init_args": inner}}))
    found = method(parser, f"--config={file}")
    assert choices(found["extractors"]["clip"]) == ("token", -1, None)
    assert found["generator"]["init_args"]["negative_prompt"] == ""
    assert found["extra_windows"] == [336]
    file.write_text(yaml.safe_dump({"method": {"init_args": {"generator": {"init_args": {"steps": 4}}}}}))
    found = method(parser, f"--config={file}")
    assert (found["generator"]["init_args"]["steps"], found["generator"]["init_args"]["guidance"]) == (4, 8.0)


def test_methods_data_and_protocols_are_replaced_whole(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("name: bare\n")
    changed = ["--method.extra_windows=[]", "--data.limit=3", "--protocol.small_images=pad", "--protocol.stride=100"]
    parsed = parser.parse_args([*OVDIFF, *changed, *OVDIFF[1:], f"--protocol={tmp_path / 'bare.yaml'}"])
    assert plain(parsed.method)["init_args"]["extra_windows"] == [336]
    assert parsed.data.init_args.limit is None
    assert (parsed.protocol.small_images, parsed.protocol.stride) == ("whole", 224)
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"protocol": "bare.yaml"}))
    parsed = parser.parse_args([*OVDIFF, *changed, f"--config={tmp_path / 'more.yaml'}"])
    assert (parsed.protocol.name, parsed.protocol.stride) == ("bare", 224)
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"protocol": {"stride": 50}}))
    parsed = parser.parse_args([*OVDIFF, *changed, f"--config={tmp_path / 'more.yaml'}"])
    assert (parsed.protocol.name, parsed.protocol.stride, parsed.protocol.small_images) == ("tcl", 50, "pad")


def test_a_row_of_a_table_replaces_a_part_whole(parser: Parser, tmp_path: Path) -> None:
    experiment = {"protocol": f"{CONFIGS}/protocols/tcl.yaml", "method": f"{CONFIGS}/methods/ovdiff.yaml"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({**experiment, "data": f"{CONFIGS}/data/voc21.yaml"}))
    dino = str(MODELS / "dinov2_vitb14.yaml")
    rows = [
        {"name": "replaced", "set": {"method.extractors": {"clip": dino}}},
        # The setting stands first in the file, and is one of the new part.
        {"name": "changed", "set": {"method.extractors.clip.kind": "key", "method.extractors": {"clip": dino}}},
    ]
    columns = [{"name": "a", "set": {"method.extractors.clip.layer": -5}}, {"name": "b"}]
    table = {"title": "t", "config": "experiment.yaml", "rows": rows, "columns": columns}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    study = read_table(tmp_path / "table.yaml")
    found = {}
    for cell in study.cells():
        parsed = parser.parse_args([*study.arguments, *cell.arguments])
        found[cell.name] = choices(plain(parsed.method)["init_args"]["extractors"]["clip"])
    # A row's part is not that of the column, whose layer goes with it.
    assert found == {
        "replaced / a": ("token", -1, None),
        "replaced / b": ("token", -1, None),
        "changed / a": ("key", -1, None),
        "changed / b": ("key", -1, None),
    }


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_file_of_features_states_what_it_takes(file: Path) -> None:
    model = yaml.safe_load(file.read_text())
    name, arguments = model["class_path"].rpartition(".")[2], model.get("init_args", {})
    stated = {"DenseFeatures": {"kind", "layer"}, "DiffusionFeatures": {"kind", "layers", "timestep"}}
    assert stated.get(name, set()) <= set(arguments)
