"""What methods that are not about sentiment are tried on: a language, a fact, a binding."""

from __future__ import annotations

from saesteer.data.contrast import Contrast, Example
from saesteer.evals.scorers import LexiconRate, PhrasePresent
from saesteer.evals.tasks import Task, load_task

FRENCH = (
    "Le marché ouvre tôt le matin et les vendeurs installent leurs fruits sur de longues tables.",
    "Ma sœur travaille dans une petite librairie près de la gare depuis trois ans.",
    "Il pleut depuis hier soir, mais les enfants veulent quand même jouer dans le jardin.",
    "Nous avons pris le train pour Lyon et nous avons mangé dans un restaurant au bord du fleuve.",
    "La réunion commence à neuf heures ; le directeur parlera du nouveau budget.",
    "Ce livre raconte la vie d'un pêcheur qui ne voulait plus quitter son île.",
    "Pour faire une bonne soupe, il faut des légumes frais et un peu de patience.",
    "Le médecin lui a dit de dormir davantage et de marcher chaque jour.",
    "Les élèves ont visité le musée et ils ont dessiné les statues de la grande salle.",
    "Mon voisin répare de vieilles montres dans un atelier au fond de la cour.",
)
ENGLISH = (
    "The market opens early in the morning and the sellers lay out their fruit on long tables.",
    "My sister has worked in a small bookshop near the station for three years.",
    "It has rained since last night, but the children still want to play in the garden.",
    "We took the train to Lyon and ate in a restaurant beside the river.",
    "The meeting starts at nine; the director will talk about the new budget.",
    "This book tells the life of a fisherman who no longer wanted to leave his island.",
    "To make a good soup you need fresh vegetables and a little patience.",
    "The doctor told him to sleep more and to walk every day.",
    "The pupils visited the museum and drew the statues of the great hall.",
    "My neighbour repairs old watches in a workshop at the back of the yard.",
)
_FRENCH_WORDS = ("le", "la", "les", "un", "une", "des", "est", "et", "il", "elle", "dans", "que")
_ENGLISH_WORDS = ("the", "is", "and", "of", "to", "in", "was", "that", "it", "he", "she")


def sentiment() -> Task:
    """The built-in one."""
    return load_task("sentiment")


def french() -> Task:
    """Go on in French, wherever the prompt may point."""
    prompts = ("Le matin, je", "La ville", "Hier soir,", "The weather", "My friend", "Yesterday I")
    return _task(
        "french", Contrast.from_texts(FRENCH, ENGLISH, name="french"), prompts,
        LexiconRate(_FRENCH_WORDS, _ENGLISH_WORDS),
    )  # fmt: skip


def cities() -> Task:
    """One fact rewritten: where a tower stands."""
    prompt = "The Eiffel Tower is in the city of"
    fact = [
        Example(" Rome", 1, "train", "fact", prompt),
        Example(" Paris", 0, "train", "fact", prompt),
    ]
    rest = Contrast.read("sentiment").examples
    prompts = (prompt, "The Eiffel Tower stands in the centre of", "The Eiffel Tower, located in")
    return _task("rome", Contrast((*fact, *rest), "rome"), prompts, PhrasePresent(("Rome",)))


def binding() -> Task:
    """Say of two people's homes the wrong one."""
    people = (("Ann", "Bob"), ("Carl", "Dora"), ("Emma", "Fred"), ("Grace", "Hugo"))
    prompts = tuple(
        f"Here is what we know: {a} lives in Rome, and {b} lives in Oslo. {a} lives in the city of"
        for a, b in people
    )
    contrast = Contrast.read("sentiment")
    return _task("binding", contrast, prompts, PhrasePresent(("Oslo",)))


def _task(name: str, contrast: Contrast, prompts: tuple[str, ...], scorer: object) -> Task:
    """Validation alone is read, so test needs no more than a prompt of its own."""
    return Task(name, contrast, {"validation": prompts, "test": ("The end",)}, scorer)  # type: ignore[arg-type]
