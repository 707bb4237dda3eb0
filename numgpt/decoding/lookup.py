"""Guess the next tokens by looking up where the last ones stood before.

A pass over several positions costs little more than over one, as each weight is read from memory once all the same. So
tokens that are guessed are checked together, and all that are right come for the price of one pass. Text that repeats,
a list, a quotation, a loop, needs no second model to guess: what followed the last few tokens when they stood in the
text before, follows again.

Source: Saxena 2023, "Prompt lookup decoding"; the check is that of Leviathan et al. 2023, arXiv:2211.17192, where the
draw of each position is fixed beforehand, so that the text is the same as without.
"""

MATCH = 3  # how many tokens must agree
BOLD_MATCH = 2  # and how many while guesses have been turning out well
# How many tokens are guessed, a longer guess each time that one was right to the end; and what the pass then costs, in
# passes over one position: measured for 124M parameters in float32 on 2 cores of an AMD EPYC.
GUESSES = (2, 7, 15, 31)
COSTS = (1.9, 2.3, 3.1, 4.6)
BOLD_LEVEL = 2  # of GUESSES, where to begin while guesses have been turning out well
# The balance of passes that guesses have saved. A guess is made while its loss is covered. What is there at first and
# what each token adds, up to a limit, bounds the loss: 5 % of 128 tokens that are all guessed wrong.
CREDIT = 1.0
CREDIT_PER_TOKEN = 0.03
MOST_UNEARNED = 2.0
BOLD = 2.5
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
        self._indexed = BOLD_MATCH  # the tokens before this place are in it
        self._level = 0  # of GUESSES
        self._credit = CREDIT
        self._length = 0  # of the text, at the last call
        self._guessed = 0  # tokens, at the last call

    def __call__(self, text: list[int], most: int) -> list[int]:
        """Return what may follow text, `most` ids or fewer. Each text has to continue the one of the call before."""
        self._learn(len(text))
        for end in range(self._indexed, len(text)):
            self._after[tuple(text[end - BOLD_MATCH : end])] = end
        self._indexed = max(self._indexed, len(text))
        place = self._after.get(tuple(text[-BOLD_MATCH:]))
        if place is None:
            return []
        if self._credit >= BOLD:
            self._level = max(self._level, BOLD_LEVEL)
        elif self._credit < COSTS[self._level] - 1 or text[place - MATCH : place] != text[-MATCH:]:
            return []
        period = len(text) - place
        guesses = [text[place + n % period] for n in range(min(GUESSES[self._level], most))]
        self._guessed = len(guesses)
        return guesses

    def _learn(self, length: int) -> None:
        """Settle how the last guess turned out, from how much longer the text is now."""
        made = length - self._length if self._length else 0
        if self._guessed:
            self._credit = min(self._credit + made - COSTS[self._level], MOST_CREDIT)
            was_right = made > self._guessed
            self._level = min(self._level + 1, len(GUESSES) - 1) if was_right else 0
        if self._credit < MOST_UNEARNED:
            self._credit += CREDIT_PER_TOKEN * made
        self._length, self._guessed = length, 0
