"""Words for generated ProverQA problems: predicates put together from parts, and people's names.

A predicate is a verb with its object, an adjective, a noun, or something that one has. Parts are
joined freely, so that there are many thousands; a fifth of the parts and of the names is kept for
tests. All words were chosen for this project.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saesteer.evals.logic_words import PEOPLE, PROPERTIES

Kind = Literal["verb", "adjective", "noun", "have"]
KINDS: tuple[Kind, ...] = ("verb", "adjective", "noun", "have")
_SHARES = (5, 2, 2, 2)
_VERBS = """
accept admire adopt advise analyze answer arrange assemble attend attract avoid bake balance become
blend borrow break breed brew bring build buy carry carve catch cause challenge change choose clean
climb collect command comfort compose conduct connect convince cook copy count create cross cure
cut dance deliver demand describe deserve design develop discover discuss display donate draw dream
drive earn embrace encourage enjoy enter examine exchange exhibit explain explore express face fear
feed fight find fix follow forecast forge form foster found gain gather give govern grow guard guide
handle harvest heal hear help hide hire host hunt imagine improve influence inspect inspire invent
invest join judge keep know lead learn lend listen live lose love maintain make manage master meet
melt memorize mend mentor mix navigate notice observe obtain offer open organize overcome paint perform
plan plant play polish portray possess practice praise predict prepare preserve print produce promote
protect prove provide publish purchase pursue question raise reach read receive recite recognize record
recover reduce refuse release remember repair represent rescue research respect restore reveal ride run
sail save search seek sell serve sew share shape show sing sketch solve speak spread start steal store
study suggest support survive swim take tame taste teach tell test think trace trade train translate
travel treat trust understand use value visit walk want warn wash watch weave win work write
""".split()
_OBJECTS = """
ancient texts|applause|apprentices|at dawn|athletes|attention|awards|balance|bees|birds|boats|books
bravery|bread|bridges|buildings|butterflies|by candlelight|candles|canyons|castles|cattle|charity
cheese|children|choirs|cities|cityscapes|clay|clients|clocks|clothing|clouds|coins|comets|communities
compliments|confidence|crops|crowds|crystals|customs|daily|danger|debates|decisions|deep caves
diagrams|difficult puzzles|discipline|diseases|dragons|early|elders|endurance|energy|engines|enemies
evidence|experiments|fabrics|fairness|fame|families|farmland|fear|festivals|fine details|fish|flavors
flowers|foreign languages|forests|fortune|freedom|friendship|from memory|fruit|furniture|galaxies
games|gardens|generously|glaciers|glass|goals|gold|good advice|gratitude|growth|guests|habits|harmony
heat|herbs|heroes|historical records|honesty|horses|hospitals|houses|humor|ideas|improvement|in public
in silence|in the rain|insects|instruments|islands|jewelry|jokes|journalists|justice|kindness
kingdoms|knowledge|lanterns|laughter|laws|leadership|leather|lessons|letters|libraries|local farmers
loneliness|long distances|loyalty|machines|magic|manuscripts|maps|markets|masks|meals|medals
medicine|memories|merchants|messages|metals|minerals|miracles|mistakes|money|monuments|mountains
museums|music|myths|nature|neighbors|networks|new recipes|newcomers|night skies|novels|oceans
old friends|opera|orchards|orphans|other cultures|paintings|patience|patients|patterns|peace|pets
photographs|plants|plays|poetry|pottery|power|precision|prizes|problems|profits|progress|public
rare fossils|recognition|refugees|rejection|relatives|reptiles|respect|responsibility|results|risks
rituals|rivers|robots|ruins|rumors|safe routes|satisfaction|scholars|schools|sculptures|secrets
seeds|self-control|sheep|ships|silver|sincerity|skills|sleep|snakes|social change|soldiers|songs
software|spirits|sports|stars|statues|stories|storms|strangers|strategies|strong teams|students|success
sunsets|support|swords|symbols|talent|tea|technology|temples|textiles|theories|tools|tourists|trade
traditions|trains|treasures|treaties|trees|trophies|trouble|trust|truth|unity|valleys|vegetables
victories|villages|violins|visitors|volcanoes|wealth|weather|whales|wild animals|wine|wisdom|with care
with passion|wolves|wood|wounds|young artists
""".replace("\n", "|").strip("|").split("|")
_ADJECTIVES = """
active adventurous ambitious anxious artistic athletic attentive bold brilliant busy cautious
charismatic charming cheerful confident cooperative courageous creative dangerous daring decisive
dedicated delicate dependable determined diligent diplomatic disciplined eccentric educated efficient
elegant eloquent emotional energetic enthusiastic experienced famous fearless flexible forgetful
forgiving fortunate frugal funny generous graceful grateful healthy helpful hopeful humble idealistic
imaginative impatient impulsive independent influential innocent inquisitive intelligent intuitive
inventive joyful knowledgeable logical mature melancholic meticulous modest motivated musical
mysterious nimble observant obedient optimistic organized outgoing passionate peaceful perceptive
persistent popular powerful practical precise punctual rational realistic rebellious reliable
religious reserved resilient resourceful respected responsible restless romantic secretive selfish
sensitive serious sincere skeptical sociable spontaneous stubborn successful superstitious talented
thoughtful tolerant traditional trained trustworthy unpredictable versatile vigilant wealthy witty
""".split()
_AFTER = """
about the future|among artists|at chess|at heights|at home|in battle|in repairs|in the kitchen
in public|on stage|under pressure|with animals|with children|with money|with numbers|with tools
with strangers|with words
""".replace("\n", "|").strip("|").split("|")
_NOUNS = """
acrobat actor adventurer advisor ambassador apprentice archer architect artist astronomer athlete
author baker banker bard beekeeper biologist blacksmith botanist builder captain carpenter celebrity
champion chef chemist climber coach collector comedian composer conductor craftsman critic dancer
designer detective diver doctor dreamer driver economist editor engineer expert explorer farmer
fighter firefighter fisherman gardener geologist goldsmith governor guardian guide healer hero
historian hunter idealist inventor investor journalist judge juggler king lawyer leader legend
librarian linguist magician mathematician mechanic mentor merchant miner minister monk mountaineer
musician navigator negotiator nurse optimist outsider painter perfectionist pharmacist philosopher
photographer physicist pilot pioneer player poet potter priest producer professor programmer prophet
ranger realist reporter researcher rider sailor scholar scientist sculptor singer sorcerer speaker
specialist sportsman spy storyteller strategist student surgeon survivor swimmer tailor teacher
thinker trader trainer traveler tutor veteran viking visionary volunteer warrior weaver wizard
worker writer
""".split()
_THINGS = """
ability accent ambition appearance appetite armor artwork attitude background balance beard behavior
body brain business car career character clothes coat collection courage curiosity degree dog ears
ear education eyes eyesight face fans farm fears feathers fingers friends fur gaze gift goals grip
hair hands hat heart heritage hobbies home horns house humor ideas imagination instinct intellect
intuition job knowledge laugh legs library license lungs manners memory mind money mood motives
muscles nature nerves opinions origin past patience personality plans possessions power presence pride
principles reach reflexes reputation ring roots scales scar secrets senses sense shield shoulders
skills skin smile soul spirit stamina stature status strength style sword tail talent taste teeth
temper tone training upbringing values vision voice weapon wings willpower workshop wounds
""".split()
_WITH = """
ancient bad big bright calm clear cold colorful cheerful dark deep different distinct excellent exotic
expensive fierce fine foreign gentle good graceful great hidden high huge impressive intense keen large
lively long loud magical modern musical mysterious natural noble open patient peculiar poor powerful
professional proud quick quiet quirky rare rich royal scientific serious sharp shiny shy simple slender
small social soft special stable steady stern strange strong technical terrible thick tiny traditional
unique unusual vast warm weak wide wild wise wonderful young
""".split()
_PLURAL = frozenset(
    """armor artwork behavior clothes courage curiosity ears education eyes eyesight fans fears
    feathers fingers friends fur goals hair hands heritage hobbies horns humor ideas imagination
    intuition knowledge legs lungs manners money motives muscles nerves opinions patience plans
    possessions power pride principles reflexes roots scales secrets senses shoulders skills skin
    stamina stature strength talent teeth training values wings willpower wounds""".split()
)
"""What one has without an article."""
_NAMES = """
Adele Aisha Alba Alma Amir Anders Anika Anton Arlo Astrid Aubrey August Basil Bea Bianca Boris Brock
Camila Carmen Cedric Celia Chase Chen Cleo Cyrus Dahlia Damon Dante Darcy Declan Delia Derek Dina
Edith Elio Elsa Ember Enzo Esme Ethan Eva Ezra Farah Finn Flora Freya Gale Gemma Georgia Gilda Grant
Greta Gwen Hannah Harlan Harper Helga Holden Ida Imogen Ines Ingrid Isaac Isla Jamal Jasper Joel
Judith Juno Kai Kaspar Keira Kellan Lars Layla Leila Lena Liam Lila Linus Lorena Luca Magnus Malik
Margot Marcel Matilda Mei Milo Miriam Nadia Naomi Nico Noel Odin Olive Orla Orson Owen Paloma Pedro
Percy Phoebe Pia Priya Rafael Ramona Ravi Reed Remy Rhea Rocco Roland Rory Rowan Ruby Rufus Sanjay
Sasha Selma Silas Sofia Soren Talia Tariq Theo Thora Tobias Uma Valerie Vernon Viola Willa Xenia
Yasmin Yusuf Zara Zelda Zora Bear Boss Buddy Champ Cookie Duke Earl Ginger Happy Hunter Joy King
Lady Lucky Major Melody Misty Nova Pepper Princess Rebel Ranger Robin Rock Shadow Sunny Tiger Viking
""".split()
_TITLES = ("Dr. ", "Mr. ", "Mrs. ", "Professor ", "Captain ", "Chef ")
_STARTS = "A Al Ama Be Bra Ca Chri Da De E Emma Fa Ga Gra Ha I Ja Jo Ka Ke Ki La Le Lu Ma Me Mi Na Ne".split()
_STARTS += "O Pa Qui Ra Ro Sa Se Sha Ta Te Ty U Va Vi Wa Xa Ya Za Ze".split()
_MIDDLES = "b br d di dr g k l ll lli m mm n nn nd nni r rr rri s ss t tt v w x y z".split()
_ENDS = "a ah an ana ara as ay e ee el ela en er ette ia ian ie ika in ina io ion is o on or ron us yn".split()


@dataclass(frozen=True)
class Predicate:
    """What can be said of one: `head` is a verb, an adjective, a noun or a thing one has."""

    kind: Kind
    head: str
    rest: str = ""

    @property
    def key(self) -> str:
        """The same for all its forms."""
        return f"{self.kind} {self.head} {self.rest}"


def kept_for_tests(word: str) -> bool:
    """Whether a word is one of the fifth that nothing is ever fitted on."""
    return zlib.crc32(word.encode()) % 5 == 1


def draw_predicates(
    rng: random.Random, n: int, *, new: bool = False, near: float = 0.4
) -> list[Predicate]:
    """Different predicates; a share of them has one part of an earlier one.

    Args:
        new: only of parts that are kept for tests; without it of none of them.
    """
    drawn: dict[Predicate, None] = {}
    while len(drawn) < n:
        known = list(drawn)
        if known and rng.random() < near:
            drawn[_near(rng, rng.choice(known), new)] = None
        else:
            drawn[_predicate(rng, rng.choices(KINDS, _SHARES)[0], new)] = None
    return list(drawn)


def draw_people(rng: random.Random, n: int, *, new: bool = False) -> list[str]:
    """Different names, half of them invented; a few with a title."""
    drawn: dict[str, str] = {}
    while len(drawn) < n:
        name = rng.choice((*PEOPLE, *_NAMES)) if rng.random() < 0.5 else _invented(rng)
        if kept_for_tests(name) == new:
            drawn[name] = rng.choice(_TITLES) + name if rng.random() < 0.05 else name
    return list(drawn.values())


def with_article(thing: str) -> str:
    """`a ` or `an ` where something one has is counted, else nothing."""
    if thing.split()[-1] in _PLURAL:
        return ""
    return "an" if thing[0] in "aeiou" else "a"


def third(verb: str) -> str:
    """`carries`, `watches`, `plays`."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{verb}s"


def going(verb: str) -> str:
    """`carrying`, `making`; a last consonant is doubled in the short verbs that ask for it."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return f"{verb[:-1]}ing"
    return f"{verb}{verb[-1]}ing" if verb in _DOUBLED else f"{verb}ing"


_DOUBLED = frozenset("cut plan run spread swim win".split()) - {"spread"}


def _predicate(rng: random.Random, kind: Kind, new: bool) -> Predicate:
    match kind:
        case "verb":
            return Predicate(kind, _word(rng, _VERBS, new), _word(rng, _OBJECTS, new))
        case "adjective":
            after = _word(rng, _AFTER, new) if rng.random() < 0.3 else ""
            return Predicate(kind, _word(rng, (*_ADJECTIVES, *PROPERTIES), new), after)
        case "noun":
            before = f"{_word(rng, _ADJECTIVES, new)} " if rng.random() < 0.5 else ""
            return Predicate(kind, before + _word(rng, _NOUNS, new))
        case "have":
            before = f"{_word(rng, _WITH, new)} " if rng.random() < 0.7 else ""
            return Predicate(kind, before + _word(rng, _THINGS, new))


def _near(rng: random.Random, known: Predicate, new: bool) -> Predicate:
    """Another predicate with the known one's verb, its object, or its last word."""
    if known.kind == "verb" and rng.random() < 0.5:
        return Predicate("verb", known.head, _word(rng, _OBJECTS, new))
    if known.kind == "verb":
        return Predicate("verb", _word(rng, _VERBS, new), known.rest)
    other = _predicate(rng, known.kind, new)
    if known.kind == "adjective":
        return Predicate("adjective", other.head, known.rest)
    words = _ADJECTIVES if known.kind == "noun" else _WITH
    return Predicate(known.kind, f"{_word(rng, words, new)} {known.head.split()[-1]}")


def _word(rng: random.Random, words: Sequence[str], new: bool) -> str:
    while True:
        word = rng.choice(words)
        if kept_for_tests(word) == new:
            return word


def _invented(rng: random.Random) -> str:
    middle = rng.choice(_MIDDLES) if rng.random() < 0.8 else ""
    return rng.choice(_STARTS) + middle + rng.choice(_ENDS)
