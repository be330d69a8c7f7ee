"""The words of the built-in grammar: a few hundred types, each of exactly one category.

Nouns come as ``(singular, plural)`` and inflected verbs as ``(singular, plural, past)``. No
determiner, adjective or adverb tells a number, so that only nouns and present-tense verbs do.
"""

__all__ = [
    "ADJECTIVES",
    "ADVERBS",
    "CLAUSE_VERBS",
    "COMPARISONS",
    "DETERMINERS",
    "NAMES",
    "PEOPLE",
    "PREPOSITIONS",
    "THINGS",
    "THING_VERBS",
    "TIMES",
    "TRANSITIVE_VERBS",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _nouns(regular: str, irregular: str = "") -> tuple[tuple[str, str], ...]:
    pairs = [(word, word + "s") for word in regular.split()]
    pairs += [tuple(pair.split("/")) for pair in irregular.split()]  # type: ignore[misc]
    return tuple(pairs)


def _verbs(forms: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((plural + "s", plural, past) for plural, past in _pairs(forms))


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (item.split("/") for item in text.split())]


PEOPLE = _nouns(
    "actor artist author baker banker boy brother captain clerk cousin dancer doctor driver "
    "farmer friend gardener girl guard hunter king lawyer manager nurse officer painter pilot "
    "player poet queen sailor scholar singer sister soldier student teacher tourist uncle "
    "visitor waiter writer",
    "child/children coach/coaches lady/ladies man/men wife/wives woman/women secretary/secretaries",
)
THINGS = _nouns(
    "apple basket bell book bottle bridge cabinet car castle chair cup door farm field "
    "flower forest garden hat horse house island key lake lamp letter machine mountain novel "
    "picture plate river road room ship shop song stone table tower town tree village wall "
    "window",
    "box/boxes church/churches city/cities knife/knives library/libraries mouse/mice story/stories",
)
# Present and past of what a person does to someone or something.
TRANSITIVE_VERBS = _verbs(
    "admire/admired avoid/avoided choose/chose describe/described draw/drew enjoy/enjoyed "
    "find/found follow/followed forget/forgot hear/heard know/knew like/liked mention/mentioned "
    "need/needed notice/noticed praise/praised remember/remembered see/saw sell/sold want/wanted"
)
# What a thing does.
THING_VERBS = _verbs(
    "attract/attracted block/blocked cover/covered hide/hid please/pleased resemble/resembled "
    "surprise/surprised surround/surrounded"
)
# What a person does alone.
CLAUSE_VERBS = _verbs(
    "arrive/arrived dream/dreamt laugh/laughed sing/sang sleep/slept smile/smiled swim/swam "
    "wait/waited"
)
DETERMINERS = _words("the the the the my your our his her their")
ADJECTIVES = _words(
    "angry beautiful big black blue bright busy calm clever cold dark dusty famous fast foreign "
    "friendly gentle golden green happy heavy honest large lonely loud narrow new noble old pale "
    "poor proud quiet red rich small strange tall tired white wild young"
)
PREPOSITIONS = _words(
    "above across behind below beside between beyond by from in near of on opposite to under with"
)
COMPARISONS = ("unlike", "besides")
ADVERBS = _words("always apparently certainly never now often probably rarely still usually")
TIMES = _words("yesterday today sometimes later nowadays afterwards")
NAMES = _words("alice anna bob charles clara david emma frank george henry john mary")
