"""Translation, as the GPT-2 paper has it made: examples "english sentence = french sentence", then one to complete.

Source: Radford et al. 2019, section 3.7: greedy decoding, of which the first sentence counts.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from numgpt.apps.sentences import first_sentences, split_sentences
from numgpt.decoding.text import stream
from numgpt.errors import ContextError, OptionError
from numgpt.model import Model, tokenizer_of

Pair = tuple[str, str]  # a sentence and its translation

ENGLISH_FRENCH: list[Pair] = [
    ("Good morning.", "Bonjour."),
    ("The house is old.", "La maison est vieille."),
    ("I would like a glass of water.", "Je voudrais un verre d'eau."),
    ("She reads a book every evening.", "Elle lit un livre tous les soirs."),
    ("Where is the railway station?", "Où est la gare ?"),
    ("We will go to the market tomorrow.", "Nous irons au marché demain."),
    ("The children are playing in the garden.", "Les enfants jouent dans le jardin."),
    ("He did not answer my question.", "Il n'a pas répondu à ma question."),
    ("The government announced new measures on Monday.", "Le gouvernement a annoncé de nouvelles mesures lundi."),
    ("It is raining, but we are happy.", "Il pleut, mais nous sommes heureux."),
]


class Translation(NamedTuple):
    """The translation of a sentence."""

    sentence: str
    pairs: int  # how many examples there was room for
    prompt: str  # what the model was given: with them
    text: str  # what it went on with, up to the end of the line or of the first sentence
    translation: str  # the first sentence of that


def translation_prompt(sentence: str, pairs: Sequence[Pair]) -> str:
    """Return what makes GPT-2 translate.

    >>> print(translation_prompt("The fox is red.", [("Good morning.", "Bonjour.")]))
    Good morning. = Bonjour.
    The fox is red. =
    """
    return "".join(f"{english} = {french}\n" for english, french in pairs) + f"{sentence} ="


def translate(
    model: Model, text: str, pairs: Sequence[Pair] = ENGLISH_FRENCH, cache_dtype: str | None = None
) -> Iterator[Translation]:
    """Yield the translation of each sentence of a text. No sentence goes over the end of a line.

    model  one with a tokenizer. GPT-2's largest, gpt2-xl, does it best, and not well
    pairs  examples of the two languages, the first of each pair in that of the text. Where they don't all fit into the
           context, those that come first are left out
    cache_dtype  as `generate` has it
    A translation has at most three times the tokens of its sentence, and 20 more.
    Raises, when iterated, ContextError for a sentence that does not fit with even one pair and room for its
    translation; TokenError for a model without a tokenizer.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> [found.sentence for found in translate(model, "The fox is red. It runs.")]
    ['The fox is red.', 'It runs.']
    """
    for line in text.splitlines():
        for sentence in filter(None, map(str.strip, split_sentences(line))):
            shown, prompt, most = fitting_prompt(model, sentence, pairs)
            found = ""
            options: dict[str, Any] = {"max_new_tokens": most, "temperature": 0, "cache_dtype": cache_dtype}
            for piece in stream(model, prompt, stop_strings=["\n"], **options):
                found += piece
                if len(split_sentences(found)) > 1:
                    break
            yield Translation(sentence, shown, prompt, found, first_sentences(found, 1))


def fitting_prompt(model: Model, sentence: str, pairs: Sequence[Pair]) -> tuple[int, str, int]:
    """Return how many pairs leave room for a translation, the prompt with them, the last ones, and how many tokens the
    translation may have.

    Raises what `translate` raises.
    """
    tokenizer, n_ctx = tokenizer_of(model), model.config.n_ctx
    tokens = len(tokenizer.encode(sentence))
    most = 3 * tokens + 20
    for first in range(len(pairs)):
        prompt = translation_prompt(sentence, pairs[first:])
        if len(tokenizer.encode(prompt)) + most <= n_ctx:
            return len(pairs) - first, prompt, most
    raise ContextError(
        f"the sentence {sentence!r:.60} has {tokens} tokens: with an example pair and room for a translation of {most} "
        f"it does not fit the context of {n_ctx}: cut it into shorter sentences"
    )


def known_pairs(source: str, target: str) -> list[Pair]:
    """Return example pairs for two languages, of which English and French are known, both ways.

    Raises OptionError for others.

    >>> known_pairs("fr", "en")[0]
    ('Bonjour.', 'Good morning.')
    """
    known = {("en", "fr"): ENGLISH_FRENCH, ("fr", "en"): [(french, english) for english, french in ENGLISH_FRENCH]}
    if (source, target) not in known:
        raise OptionError(
            f"no example pairs from {source!r:.20} to {target!r:.20}, only from 'en' to 'fr' and back: "
            f"give some of your own, --pairs FILE, a line 'sentence = translation' for each"
        )
    return known[source, target]


def read_pairs(text: str, source: str) -> list[Pair]:
    """Read example pairs, a line "sentence = translation" for each; empty lines mean nothing.

    source  the name of the file, for messages
    Raises OptionError for a line of another kind, and where there is none.

    >>> read_pairs("The fox. = Der Fuchs.", "pairs.txt")
    [('The fox.', 'Der Fuchs.')]
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        sides = [side.strip() for side in line.split("=")]
        if sides == [""]:
            continue
        if len(sides) != 2 or not all(sides):
            raise OptionError(f"{source}: line {number} is {line!r:.60}, expected 'sentence = translation'")
        pairs.append((sides[0], sides[1]))
    if not pairs:
        raise OptionError(f"{source}: no pairs, expected a line 'sentence = translation' for each")
    return pairs
