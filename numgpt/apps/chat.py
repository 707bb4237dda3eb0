"""Dialogue: turns that fit the context, and a cache that is kept between them.

A model that was trained on dialogues, DialoGPT, joins the turns by end-of-text:

    Hello!<|endoftext|>Hi, how are you?<|endoftext|>Fine.<|endoftext|>

Any other model goes on with a transcript, whose lines it may know from novels and interviews:

    A conversation with a friend who knows a great deal and likes to talk about it.
    User: Hello!
    Friend: Hi, how are you?
    User: Fine.
    Friend:

What a turn costs. Keys and values of the past are in the cache, so a turn computes its own tokens and no others. When
the context is full the oldest turns, a message and its reply together, are dropped; then all that follows stands at
other positions, whose learned vectors are part of each key and value, and has to be computed anew. So turns are dropped
until half of the context is free: anew are at most n_ctx / 2 tokens, once for every n_ctx / 2 new ones. Dropping just
enough each time would compute the whole context in every turn from then on.

Source of DialoGPT's turns: Zhang et al. 2019, arXiv:1911.00536, section 3.1.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checkpoint.files import read_small
from numgpt.decoding.loop import no_guess
from numgpt.decoding.rules import check_rules
from numgpt.decoding.text import Stream, stream_ids
from numgpt.errors import CheckpointError, ContextError
from numgpt.model import Model, tokenizer_of

OPENING = "A conversation with a friend who knows a great deal and likes to talk about it.\n"


class Turn(NamedTuple):
    """What was said, and the reply."""

    message: list[int]  # with what asks for the reply
    reply: list[int]
    finish_reason: str  # as `generate` returns it, or "interrupted"


class Format(NamedTuple):
    """How turns become the ids of one text."""

    opening: list[int]  # what stands before all turns
    ask: Callable[[str], list[int]]  # from a message to its ids and what asks for the reply
    end: list[int]  # what ends a reply
    stop_ids: list[int]  # one of these in its place ends it too


def dialogue(model: Model) -> Format:
    """Return DialoGPT's format: each turn ends with end-of-text.

    Raises CheckpointError for a model without end-of-text.
    """
    encode, eos = tokenizer_of(model).encode_part, model.config.eos_token_id
    if eos is None:
        raise CheckpointError("this model has no end-of-text token to join turns with: use the transcript format")
    return Format([], lambda message: [*encode(message), eos], [eos], [])


def transcript(model: Model) -> Format:
    """Return the format of a model that knows no turns: a line for each, with the name of who speaks."""
    tokenizer = tokenizer_of(model)
    encode, pieces = tokenizer.encode_part, tokenizer.pieces(range(len(tokenizer)))
    line_ends = [i for i, piece in enumerate(pieces) if b"\n" in piece]
    return Format(encode(OPENING), lambda message: encode(f"User: {message}\nFriend:"), encode("\n"), line_ends)


def knows_dialogue(name: str, folder: Path) -> bool:
    """Whether a checkpoint is a DialoGPT: by its name, or because its config.json says "conversational"."""
    if any("dialogpt" in word.lower() for word in (Path(name).name, folder.name)):
        return True
    try:
        values = json.loads(read_small(folder / "config.json"))
        return "conversational" in values["task_specific_params"]
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return False  # loading it says what is wrong


@dataclass
class Chat:
    """A conversation: the turns that are remembered, and the cache that goes with them.

    options  those of `generate`: seed, temperature, top_k and so on. Reply n draws from stream n

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> chat = Chat(model, transcript(model), {"seed": 1}, max_new_tokens=10)
    >>> "".join(chat.reply("Who are you?")) != ""
    True
    >>> len(chat.turns)
    1
    """

    model: Model
    format: Format
    options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 100  # of a reply
    forward: Callable[..., np.ndarray] = fast.forward
    turns: list[Turn] = field(default_factory=list)  # those that are remembered, the oldest first
    replies: int = 0  # so far, also those forgotten

    def __post_init__(self) -> None:
        """Raise OptionError for an option out of its range, before anybody has said anything."""
        rules = check_rules(self.model.config, max_new_tokens=self.max_new_tokens, **self.options)
        self.cache = KVCache(self.model.config, rules.cache_dtype or self.model.params["wte"].dtype)

    def ids(self) -> list[int]:
        """Return the text of the conversation."""
        said = (i for turn in self.turns for i in (*turn.message, *turn.reply, *self.format.end))
        return [*self.format.opening, *said]

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()
        self.cache.truncate(0)

    def reply(self, message: str) -> Generator[str, None, None]:
        """Say something; yield the reply, piece by piece, less the white space that it begins with.

        message  a text, which counts as one line
        The turn is remembered when the iterator is at its end or is closed, then with what there is of the reply.
        Raises, when called, TokenError for a message that can't be encoded and ContextError for one that the context
        has no room for, with a reply; the conversation is as before. A reply has at least one token.
        """
        config, (opening, ask, end, stop_ids) = self.model.config, self.format
        asked = ask(" ".join(message.splitlines()).strip())
        lengths = [len(turn.message) + len(turn.reply) + len(end) for turn in self.turns]
        dropped = turns_to_drop(lengths, len(opening) + len(asked) + self.max_new_tokens + len(end), config.n_ctx)
        if dropped:
            del self.turns[:dropped]
            self.cache.truncate(min(len(self.cache), len(opening)))
        said = stream_ids(
            self.model,
            [*self.ids(), *asked],
            **{"min_new_tokens": 1, **self.options},
            max_new_tokens=self.max_new_tokens,
            stop_ids=stop_ids,
            stream=self.replies,
            forward=self.forward,
            guess=no_guess,
            cache=self.cache,
        )
        return self._remembered(asked, said)

    def _remembered(self, asked: list[int], said: Stream) -> Generator[str, None, None]:
        """Yield the text of a reply, less the white space that it begins with, and remember the turn."""
        begun = False
        try:
            for piece in said:
                text = piece if begun else piece.lstrip()
                if text:
                    begun = True
                    yield text
        finally:
            said.close()
            self.turns.append(Turn(asked, said.ids, said.finish_reason))
            self.replies += 1


def turns_to_drop(lengths: list[int], new: int, n_ctx: int) -> int:
    """Return how many of the oldest turns to drop: none while the new one fits, else until half of the context is free.

    lengths  tokens of each turn, the oldest first
    new      tokens of all else: the opening, the new turn and the room for its reply
    Raises ContextError where not even the new turn fits.

    >>> turns_to_drop([30, 30, 20], new=20, n_ctx=100), turns_to_drop([30, 30, 20], new=21, n_ctx=100)
    (0, 2)
    """
    if new > n_ctx:
        raise ContextError(
            f"this turn takes {new} tokens, with room for the reply, but the context of this model is {n_ctx}: "
            f"say it in fewer words, or ask for a shorter reply"
        )
    total, dropped = new + sum(lengths), 0
    if total > n_ctx:
        while dropped < len(lengths) and total > n_ctx // 2:
            total -= lengths[dropped]
            dropped += 1
    return dropped
