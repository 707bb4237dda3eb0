"""Guess the next tokens by looking up where the last ones stood before.

A pass over several positions costs little more than over one, as each weight is read from memory once all the same. So
tokens that are guessed are checked together, and all that are right come for the price of one pass. Text that repeats,
a list, a quotation, a loop, needs no second model to guess: what followed the last few tokens when they stood in the
text before, follows again.

Source: Saxena 2023, "Prompt lookup decoding"; the check is that of Leviathan et al. 2023, arXiv:2211.17192, where the
draw of each position is fixed beforehand, so that the text is the same as without.
"""

MATCH = 3  # how many tokens must agree
# How many tokens are guessed, a longer guess each time that one was right to the end; and what the pass then costs, in
# passes over one position: measured for 124M parameters in float32 on 2 cores of an AMD EPYC.
GUESSES = (2, 7, 15, 31)
COSTS = (1.9, 2.3, 3.1, 4.6)
# Wrong guesses may cost so many passes at first, and so many more with every token made: at most 5 % of 128 tokens.
CREDIT = 1.0
CREDIT_PER_TOKEN = 0.03
MOST_CREDIT = 8.0


class PromptLookup:
    """The `guess` of `generation.generate` for one text: a new one for each.

    It watches how its guesses turn out, and keeps quiet while they would cost more than they gain.

    >>> guess = PromptLookup()
    >>> guess([1, 2, 3, 4, 5, 1, 2, 3], 4)
    [4, 5]
    >>> guess([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1], 4)
    [2, 3, 4, 5]
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # the last tokens -> where the text went on after them
        self._indexed = MATCH  # the tokens before this place are in it
        self._level = 0  # of GUESSES
        self._credit = CREDIT
        self._length = 0  # of the text, at the last call
        self._guessed = 0  # tokens, at the last call

    def __call__(self, text: list[int], most: int) -> list[int]:
        """Return what may follow text, `most` ids or fewer. Each text has to continue the one of the call before."""
        self._learn(len(text))
        for end in range(self._indexed, len(text)):
            self._after[tuple(text[end - MATCH : end])] = end
        self._indexed = max(self._indexed, len(text))
        place = self._after.get(tuple(text[-MATCH:]))
        if place is None or self._credit < COSTS[self._level] - 1:
            return []
        period = len(text) - place
        guesses = [text[place + n % period] for n in range(min(GUESSES[self._level], most))]
        self._guessed = len(guesses)
        return guesses

    def _learn(self, length: int) -> None:
        """Settle how the last guess turned out, from how much longer the text is now."""
        made = length - self._length if self._length else 0
        if self._guessed:
            gain = made - COSTS[self._level]
            right = made > self._guessed
            self._level = min(self._level + 1, len(GUESSES) - 1) if right else 0
        else:
            gain = 0
        self._credit = min(self._credit + gain + CREDIT_PER_TOKEN * made, MOST_CREDIT)
        self._length, self._guessed = length, 0
