"""The published thing/stuff answers: what they differ in from the data's own lists, and where they decide."""

from pathlib import Path

import pytest

import datamodules
from harness import ConfigurationError, Vocabulary
from harness.commands.evaluate import parser
from methods.ovdiff.stuff import STUFF, THINGS, chatgpt_stuff
from tests.methods.ovdiff.test_method import made
from tests.running import REPOSITORY

# Read off the release's list beside ours: stuff in one of the two only.
OURS_ONLY = {
    "VOC20": "",
    "Context59": "building food tree",
    "ADE20K": "bannister bridge building dirt_track earth field food grandstand hill land path pier plant railing "
    "river rug runway sand sea skyscraper stage stairs stairway swimming_pool tree waterfall",
    "Cityscapes": "building",
    "COCOObject": "",
    "COCOStuff": "bridge cabinet counter flower hill house light pillow railing river rug sand sea shelf skyscraper "
    "stairs table tent towel tree",
}
PUBLISHED_ONLY = {"ADE20K": "blanket curtain glass trade_name tray"}


def names(text: str) -> set[str]:
    return {name.replace("_", " ") for name in text.split()}


def test_every_answer_is_one_of_the_two() -> None:
    assert (len(STUFF), len(THINGS), STUFF & THINGS) == (25, 146, frozenset())
    assert {"sky", "water", "wood", "trade name"} <= STUFF
    assert {"chest of drawers", "swivel chair", "building", "food", "tree"} <= THINGS
    assert all(name == name.strip() and "\n" not in name for name in STUFF | THINGS)


@pytest.mark.parametrize("name", OURS_ONLY)
def test_where_the_answers_differ_from_our_lists(name: str) -> None:
    vocabulary = getattr(datamodules, name).default_vocabulary()
    published = chatgpt_stuff(vocabulary.prompt_names({}), vocabulary.stuff)
    assert vocabulary.stuff - published == names(OURS_ONLY[name])
    assert published - vocabulary.stuff == names(PUBLISHED_ONLY.get(name, ""))


def test_the_answers_have_every_class_of_context_and_ade() -> None:
    """But for VOC's four, which have other names in the release and are things in both."""
    known = STUFF | THINGS
    context = set(datamodules.Context59.default_vocabulary().names)
    assert context - known == {"aeroplane", "pottedplant", "tvmonitor"}
    assert set(datamodules.ADE20K.default_vocabulary().names) <= known


def test_a_class_without_an_answer_has_that_of_its_prompt_or_of_the_data() -> None:
    words = {"meadow": "grass", "lawn": "lawn", "turf": "turf", "tree": "sky"}
    assert chatgpt_stuff(words, frozenset({"lawn", "tree"})) == {"meadow", "lawn"}


def test_the_method_takes_either_list(tmp_path: Path) -> None:
    """``sky`` is stuff for ChatGPT; the data here say that ``cat`` is."""
    words = Vocabulary(("background", "cat", "sky"), background=True, stuff=frozenset({"cat"}))

    def negatives(stuff: object) -> list[bool]:
        method = made(tmp_path, words, stuff=stuff, stuff_similarity_threshold=1.0)
        return [len(each) > 0 for each in method._prototypes["colour"]["background"]]

    assert negatives(None) == [False, True]
    assert negatives("chatgpt") == [True, False]
    assert negatives([]) == [True, True]
    with pytest.raises(ConfigurationError, match="'chatgpt', null or a list"):
        made(tmp_path, words, stuff="chatgbt")


def test_the_papers_rows_have_the_papers_answers() -> None:
    configured = REPOSITORY / "configs" / "methods"
    line = ["--data", "miniature.datamodule.Miniature", "--protocol", str(REPOSITORY / "configs/protocols/tcl.yaml")]
    for file, stuff in (("ovdiff.yaml", "chatgpt"), ("ovdiff_miniature.yaml", None)):
        parsed = parser().parse_args(["--method", str(configured / file), *line])
        assert parsed.method.init_args.stuff == stuff
    parsed = parser().parse_args(["--method", str(configured / "ovdiff.yaml"), *line, "--method.stuff=null"])
    assert parsed.method.init_args.stuff is None
    parsed = parser().parse_args(["--method", str(configured / "ovdiff.yaml"), *line, "--method.stuff=[sky, sea]"])
    assert parsed.method.init_args.stuff == ["sky", "sea"]


# What the release calls classes: PASCAL VOC's own list, and what it puts over the names of any data set.
RELEASE_VOC = {"aeroplane": "airplane", "diningtable": "table", "pottedplant": "potted plant", "tvmonitor": "monitor"}
RELEASE_ANY = {
    "tank": "liquid tank",
    "blind": "window blinds",
    "hood": "cooker hood",
    "ashcan": "wastebin",
    "case": "shop case",
    "keyboard": "computer keyboard",
    "apparel": "clothing",
}
RENAMED = {
    "VOC20": {"aeroplane", "diningtable", "pottedplant", "tvmonitor"},
    "VOC21": {"aeroplane", "diningtable", "pottedplant", "tvmonitor"},
    "Context59": {"aeroplane", "pottedplant", "tvmonitor", "keyboard"},
    "Context60": {"aeroplane", "pottedplant", "tvmonitor", "keyboard"},
    "COCOObject": {"keyboard"},
    "COCOObjectTCL": {"keyboard"},
    "COCOStuff": {"keyboard"},
    "ADE20K": {"tank", "blind", "hood", "ashcan", "case", "apparel"},
    "Cityscapes": set(),
    "COCO27": set(),
}


@pytest.mark.parametrize("name", RENAMED)
def test_prompts_have_the_names_of_the_release(name: str) -> None:
    found = getattr(datamodules, name)
    vocabulary = found.default_vocabulary()
    expected = {each: {**RELEASE_VOC, **RELEASE_ANY}.get(each, each) for each in vocabulary.foreground}
    assert {each for each, word in expected.items() if word != each} == RENAMED[name]
    line = ["--data", "miniature.datamodule.Miniature", "--protocol", str(REPOSITORY / "configs/protocols/tcl.yaml")]
    parsed = parser().parse_args(["--method", str(REPOSITORY / "configs" / "methods" / "ovdiff.yaml"), *line])
    assert vocabulary.prompt_names(parsed.method.init_args.prompt_names) == expected
    if RENAMED[name]:
        # The same names as a protocol's, in another way: classes are then called so in tables, too.
        assert found.vocabulary_for("ovdiff").foreground == tuple(expected.values())
        assert set(found.class_name_overrides["ovdiff"]) == RENAMED[name]
