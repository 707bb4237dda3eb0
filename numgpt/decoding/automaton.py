r"""A regular expression as an automaton on bytes: what a text has come to, and which bytes may follow.

    pattern --parse--> parts --build--> states and edges --Automaton--> sets of states, and where each byte leads

A backtracking matcher looks for one way through the pattern. An automaton is in all places at once where the text may
be in the pattern: one set of states, empty where the text can't match any more. Each byte leads from set to set, so a
byte is looked at once, whatever the pattern; and a set that was met before is known.

A character is one or more bytes of UTF-8, and so are the edges: 17 of them lead through a `.`. Which characters a
class such as `[^a-z]`, `\w` or `\p{L}` has is asked of `regex`, so it means here what it means there.

Sources: Thompson 1968, "Regular expression search algorithm"; Cox 2010, "Regular expression matching in the wild", for
ranges of characters as ranges of bytes; Willard and Louf 2023, arXiv:2307.09702, for its use here.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, reduce
from itertools import pairwise
from typing import Any

import numpy as np

from numgpt.errors import OptionError

Build = Callable[["States", int], int]  # (states, the one that comes after) -> the one at which a part begins
Tree = tuple[tuple[int, int, Any], ...]  # (lowest, highest byte, the tree of what follows or None at the end)

MOST_STATES = 100_000  # of a pattern
MOST_SETS = 8192  # that an automaton remembers, of 2 KB each
DEEPEST = 50  # groups in groups
ACCEPT = 0  # the state in which the text matches
DEAD = 0  # the set of no states

FLAGS = re.compile(r"\(\?([is]+)\)")
CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^]\\])*\]", re.DOTALL)
ESCAPE = re.compile(
    r"\\(?:[dDwWsSnrtfva]|x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|0[0-7]{0,2}|[pPN]\{[^}]*\}|[^\w]|_)", re.DOTALL
)
GROUP = re.compile(r"\((?:\?:|\?P?<[^\W\d]\w*>|(?![?*]))")
COUNT = re.compile(r"(?:([*+?])|\{(\d{1,6})\}|\{(\d{0,6}),(\d{0,6})\})(\+?)\??", re.ASCII)


# ---- characters to bytes


@lru_cache(maxsize=1)
def all_characters() -> tuple[str, str]:
    """Return all characters in their order, before the surrogates, which are none, and after them."""
    return "".join(map(chr, range(0xD800))), "".join(map(chr, range(0xE000, 0x110000)))


def ranges_of(item: str, flags: str) -> Iterator[tuple[int, int]]:
    """Yield the ranges of characters that a part of a pattern matches which stands for one character.

    >>> list(ranges_of("[a-cx]", flags="")), list(ranges_of("k", flags="i"))
    ([(97, 99), (120, 120)], [(75, 75), (107, 107), (8490, 8490)])
    """
    import regex  # here, as few ask for it, and it takes 25 ms

    try:
        runs = regex.compile(f"{flags and f'(?{flags})'}(?:{item})+")
    except regex.error as error:
        raise OptionError(f"regex has {item!r:.40}, which is no class: {error}") from None
    for characters in all_characters():
        for run in runs.finditer(characters):
            yield ord(run.group()[0]), ord(run.group()[-1])


def bytes_of(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    r"""Yield ranges of bytes, one after the other, that together are the characters from low to high in UTF-8.

    >>> [[(hex(a), hex(b)) for a, b in ranges] for ranges in bytes_of(0x70, 0x85)]
    [[('0x70', '0x7f')], [('0xc2', '0xc2'), ('0x80', '0x85')]]
    """
    lasts = [last for last in (0x7F, 0x7FF, 0xFFFF) if low <= last < high]  # of one length
    for bits in (6, 12, 18):  # those of the last bytes: they go over their whole range, or the others stay as they are
        if low >> bits != high >> bits and high > 0x7F:
            lasts += [low | ((1 << bits) - 1)] if low % (1 << bits) else []
            lasts += [(high >> bits << bits) - 1] if (high + 1) % (1 << bits) else []
    if lasts:
        yield from bytes_of(low, lasts[0])
        yield from bytes_of(lasts[0] + 1, high)
    else:
        yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))


@lru_cache(maxsize=256)
def tree_of(item: str, flags: str = "") -> Tree:
    """Return the bytes of all characters that a part of a pattern matches, those that begin alike together.

    >>> tree_of("[éë]")
    ((195, 195, ((169, 169, None), (171, 171, None))),)
    """
    return tree([found for low, high in ranges_of(item, flags) for found in bytes_of(low, high)], {})


def tree(sequences: list[list[tuple[int, int]]], known: dict[Any, Tree]) -> Tree:
    """Return some sequences of ranges of bytes as a tree; branches that are equal are one and the same."""
    rests: dict[tuple[int, int], list[list[tuple[int, int]]]] = {}
    for first, *rest in sequences:
        rests.setdefault(first, []).append(rest)
    found = tuple((*first, tree(rest, known) if rest[0] else None) for first, rest in rests.items())
    return known.setdefault(found, found)


# ---- parts of a pattern, and how they are built


class States:
    """The states of a pattern, numbered: the edges that lead from each by a byte, and those that need none."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[int, int, int]]] = [[]]  # (lowest, highest byte, to); the first is ACCEPT
        self.free: list[list[int]] = [[]]

    def add(self, edges: Iterable[tuple[int, int, int]] = (), free: Iterable[int] = ()) -> int:
        """Return a new state. Raises OptionError where there are too many."""
        if len(self.edges) >= MOST_STATES:
            raise OptionError(f"regex needs more than {MOST_STATES} states: repeat less, or smaller parts of it")
        self.edges.append(list(edges))
        self.free.append(list(free))
        return len(self.edges) - 1

    def closed(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states that are reached without a byte, less those from which no byte leads."""
        seen, to_do = set(states), list(states)
        while to_do:
            new = set(self.free[to_do.pop()]) - seen
            seen |= new
            to_do += new
        return frozenset(state for state in seen if self.edges[state] or state == ACCEPT)


def character(found: Tree) -> Build:
    """One character, by the bytes of those that may stand here."""

    def build(states: States, after: int) -> int:
        known: dict[int, int] = {}

        def begin(branch: Tree | None) -> int:
            if branch is None:
                return after
            if id(branch) not in known:
                known[id(branch)] = states.add((low, high, begin(rest)) for low, high, rest in branch)
            return known[id(branch)]

        return begin(found)

    return build


def sequence(parts: list[Build]) -> Build:
    """Parts one after the other. They are built from the last to the first, as each has to know what follows."""

    def build(states: States, after: int) -> int:
        end = states.add(free=[after])  # one even for no parts, so that MOST_STATES bounds all that is built
        return reduce(lambda then, part: part(states, then), reversed(parts), end)

    return build


def either(options: list[Build]) -> Build:
    """One of several parts."""
    return lambda states, after: states.add(free=[option(states, after) for option in options])


def repeat(part: Build, least: int, most: int | None) -> Build:
    """A part so many times: once for each that must come, then a loop, or once for each that may."""

    def build(states: States, after: int) -> int:
        begin = states.add(free=[after])
        if most is None:
            states.free[begin].append(part(states, begin))
        else:
            for _ in range(most - least):
                begin = states.add(free=[part(states, begin), after])
        for _ in range(least):
            begin = part(states, begin)
        return begin

    return build


# ---- parse: a pattern to parts


class Parser:
    """Reads a pattern, in the syntax of `regex`, from its beginning to its end.

    >>> Parser(r"(a)\\1").parse()
    Traceback (most recent call last):
    numgpt.errors.OptionError: regex has '\\\\1', which is no character, or a look at what stands before or elsewhere: \
expected characters, classes, groups, | and counts
    """

    def __init__(self, pattern: str) -> None:
        flags = FLAGS.match(pattern)
        self.flags = flags[1] if flags else ""
        self.pattern = pattern[flags.end() if flags else 0 :].removeprefix("^")
        unescaped = re.sub(r"\\.", "", self.pattern, flags=re.DOTALL)
        if unescaped.endswith("$"):
            self.pattern = self.pattern[:-1]
        self.at = self.depth = 0

    def parse(self) -> Build:
        """Return the whole. Raises OptionError for what is no pattern, and for what an automaton can't check."""
        found = self.options()
        if self.at < len(self.pattern):
            raise self.refused("a bracket that nothing opens")
        return found

    def refused(self, what: str) -> OptionError:
        """Return the error that tells what is not taken, and where it stands."""
        found = self.pattern[self.at : self.at + 10]
        return OptionError(f"regex has {found!r}, which is {what}: expected characters, classes, groups, | and counts")

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return what stands here, if it is such a thing, and go past it."""
        found = pattern.match(self.pattern, self.at)
        self.at = found.end() if found else self.at
        return found

    def options(self) -> Build:
        """Read what stands between two brackets."""
        found: list[Build] = []
        parts: list[Build] = []
        while (here := self.pattern[self.at : self.at + 1]) not in ("", ")"):
            if here == "|":
                self.at += 1
                found.append(sequence(parts))
                parts = []
            else:
                parts.append(self.counted(self.part(here)))
        return either([*found, sequence(parts)])

    def counted(self, part: Build) -> Build:
        """Read how often a part comes, where that is said. Lazy or greedy, the same texts match."""
        count = self.take(COUNT)
        if count is None:
            return part
        sign, exactly, least, most, possessive = count.groups()
        if possessive:
            self.at = count.start()
            raise self.refused("a possessive repeat")
        if sign:
            return repeat(part, int(sign == "+"), 1 if sign == "?" else None)
        if exactly:
            return repeat(part, int(exactly), int(exactly))
        if most and int(most) < int(least or 0):
            self.at = count.start()
            raise self.refused("a count from more to fewer")
        return repeat(part, int(least or 0), int(most) if most else None)

    def part(self, here: str) -> Build:
        """Read one character, class or group."""
        if here == "(":
            return self.group()
        if here in "*+?":
            raise self.refused("a count of nothing")
        if here in "^$":
            raise self.refused("an anchor, which may stand at the ends of the pattern alone")
        if here == "{":
            raise self.refused("a brace that is no count; for the character, write \\{")
        start = self.at
        if here in "[\\":
            if not self.take(CLASS if here == "[" else ESCAPE):
                raise self.refused("no character, or a look at what stands before or elsewhere")
        else:
            self.at += 1
        item = self.pattern[start : self.at]
        found = tree_of(re.escape(item) if here not in "[\\." else item, self.flags)
        if not found:
            self.at = start
            raise self.refused("matched by no character")
        return character(found)

    def group(self) -> Build:
        """Read a group, with brackets around it."""
        start = self.at
        if not self.take(GROUP):
            raise self.refused("neither a group (...) or (?:...), nor (?i) or (?s) in front of all")
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.refused(f"a group within {DEEPEST} others")
        found = self.options()
        if self.at == len(self.pattern):
            self.at = start
            raise self.refused("a bracket that nothing closes")
        self.at += 1
        self.depth -= 1
        return found


@lru_cache(maxsize=8)
def states_of(pattern: str) -> tuple[States, frozenset[int]]:
    """Return the states of a pattern, and those where a text begins. Raises OptionError as `Parser` does."""
    states = States()
    return states, states.closed([Parser(pattern).parse()(states, ACCEPT)])


# ---- the automaton


class Automaton:
    """What a text may have come to in a pattern: sets of its states, numbered as they are met.

    Set 0 is DEAD, from where nothing matches; set 1 is where a text begins.

    >>> automaton = Automaton("ab*")
    >>> a = automaton.after(1, b"a")
    >>> automaton.matches(a), automaton.after(a, b"bb") == automaton.after(a, b"b"), automaton.after(a, b"c")
    (True, True, 0)
    """

    def __init__(self, pattern: str) -> None:
        self.states, self.begin = states_of(pattern)
        self.forget()

    def forget(self) -> None:
        """Forget all sets that were met, and their numbers."""
        self.sets = [frozenset[int](), self.begin]
        self.numbers = {found: number for number, found in enumerate(self.sets)}
        self.table = np.full((64, 256), -1)  # set and byte -> the next set; -1 where not known yet
        self.table[DEAD] = DEAD

    def matches(self, number: int) -> bool:
        """Whether a text that has come here matches."""
        return ACCEPT in self.sets[number]

    def is_over(self, number: int) -> bool:
        """Whether a text that has come here matches, and no longer one does."""
        return self.sets[number] == {ACCEPT}

    def after(self, number: int, text: bytes) -> int:
        """Return where a text has come that goes on with some bytes."""
        for byte in text:
            number = int(self.follow(np.array([number]), np.array([byte]))[0])
        return number

    def follow(self, numbers: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Return where each of many texts comes by a byte: from sets [N] and bytes [N] to sets [N]."""
        cells = numbers * 256 + following
        found = self.table.take(cells)
        if found.min() < 0:
            for number in np.unique(numbers[found < 0]):
                self._look_from(int(number))
            found = self.table.take(cells)
        return found

    def _look_from(self, number: int) -> None:
        """Find out where each byte leads from a set."""
        edges: dict[tuple[int, int], set[int]] = {}  # those of all states that are for the same bytes
        for state in self.sets[number]:
            for low, high, to in self.states.edges[state]:
                edges.setdefault((low, high), set()).add(to)
        bounds = sorted({0, 256, *(low for low, _ in edges), *(high + 1 for _, high in edges)})
        row = np.empty(256, dtype=np.intp)
        for low, end in pairwise(bounds):
            reached = (to for (first, last), to in edges.items() if first <= low <= last)
            row[low:end] = self._number_of(set().union(*reached))
        self.table[number] = row

    def _number_of(self, reached: set[int]) -> int:
        """Return the number of a set, a new one where it was not met before."""
        found = self.states.closed(reached)
        if found not in self.numbers:
            self.numbers[found] = len(self.sets)
            self.sets.append(found)
            if len(self.sets) > len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, -1)])
        return self.numbers[found]
