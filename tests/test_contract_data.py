"""The contract: what every registered data module keeps; a new one needs no line here."""

import inspect
from collections.abc import Callable

import pytest

from harness import DataError, Protocol, SegmentationData, Vocabulary
from harness.system import plugins
from tests.running import Outcome

REGISTERED = plugins.find_plugins(plugins.DATA)


@pytest.fixture(params=REGISTERED)
def data(request: pytest.FixtureRequest) -> type[SegmentationData]:
    return REGISTERED[request.param].load()


def test_it_has_a_name_and_a_docstring_of_its_own(data: type[SegmentationData]) -> None:
    assert issubclass(data, SegmentationData)
    assert data.name
    assert "name" in vars(data)
    assert (vars(data)["__doc__"] or "").strip()


def test_it_needs_no_files_or_says_in_one_sentence_what_it_needs(
    data: type[SegmentationData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVSEG_DATA", raising=False)
    root = inspect.signature(data).parameters.get("root")
    arguments = {"root": "/nowhere"} if root is not None and root.default is root.empty else {}
    try:
        built = data(**arguments)
    except DataError as error:
        sentence = str(error)
    else:
        assert len(set(built.all_ids())) == len(built.all_ids()) > 0
        assert len(built.vocabulary) > 0
        return
    assert data.name in sentence
    assert "root" in sentence
    assert len(sentence.splitlines()) == 1


def test_a_benchmarks_vocabulary_is_known_without_its_files(data: type[SegmentationData]) -> None:
    """Of those whose classes do not depend on files, by the names that a protocol asks for unless told otherwise."""
    if isinstance(inspect.getattr_static(data, "vocabulary_for"), classmethod):
        vocabulary = data.vocabulary_for(Protocol("test").class_names)
        assert isinstance(vocabulary, Vocabulary)
        assert len(set(vocabulary.names)) == len(vocabulary) > 0


def test_all_are_listed_and_imported(ovseg: Callable[..., Outcome]) -> None:
    outcome = ovseg("info")
    assert outcome.code == 0, outcome.err
    for point in REGISTERED.values():
        assert point.value.replace(":", ".") in outcome.out
    assert "cannot be imported" not in outcome.out
