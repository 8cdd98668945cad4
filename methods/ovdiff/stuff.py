"""Which classes are stuff: ChatGPT's answers, as the release publishes them (Section 3.4).

The release (``mmdata.py``) has one list by name, of the classes of PASCAL VOC, PASCAL Context and ADE20K, under its own
names for them (airplane, table, plant, monitor). A name that is not in the list is a thing there.
"""

from collections.abc import Mapping, Set


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()).split("; "))


STUFF = _names(
    """
    bedclothes; blanket; ceiling; cloth; curtain; fence; floor; glass; grass; ground; lake; mountain; platform;
    road; rock; sidewalk; sky; snow; step; track; trade name; tray; wall; water; wood
    """
)
THINGS = _names(
    """
    airplane; animal; apparel; arcade machine; armchair; ashcan; awning; bag; ball; bannister; bar; barrel;
    base; basket; bathtub; bed; bench; bicycle; bird; blind; boat; book; bookcase; booth; bottle; box; bridge;
    buffet; building; bulletin board; bus; cabinet; canopy; car; case; cat; chair; chandelier; chest of drawers;
    clock; coffee table; column; computer; conveyer belt; counter; countertop; cow; cradle; crt screen; cup;
    cushion; desk; dirt track; dishwasher; dog; door; earth; escalator; fan; field; fireplace; flag; flower;
    food; fountain; grandstand; hill; hood; horse; house; hovel; keyboard; kitchen island; lamp; land; light;
    microwave; minibike; mirror; monitor; motorbike; mouse; ottoman; oven; painting; palm; path; person; pier;
    pillow; plant; plate; plaything; pole; pool table; poster; pot; radiator; railing; refrigerator; river; rug;
    runway; sand; sconce; screen; screen door; sculpture; sea; seat; sheep; shelf; shelves; ship; shower; sign;
    signboard; sink; skyscraper; sofa; stage; stairs; stairway; stool; stove; streetlight; swimming pool; swivel
    chair; table; tank; television receiver; tent; toilet; towel; tower; traffic light; train; tree; truck; van;
    vase; wardrobe; washer; waterfall; window; windowpane
    """
)


def chatgpt_stuff(words: Mapping[str, str], otherwise: Set[str]) -> frozenset[str]:
    """The stuff classes of a vocabulary by the published answers.

    Args:
        words: Name of a class in the vocabulary -> its name in prompts; an answer to the former counts first.
        otherwise: The stuff classes among those that the answers do not have.
    """
    return frozenset(name for name, word in words.items() if _is_stuff(name, word, name in otherwise))


def _is_stuff(name: str, word: str, otherwise: bool) -> bool:
    for known in (name, word):
        if known in STUFF or known in THINGS:
            return known in STUFF
    return otherwise
