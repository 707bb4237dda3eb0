"""Regular expressions of chance, and texts that may match them."""

ITEMS = [
    *("a", "b", "ab", "é", "€", "🦊", "}", "-", "x", ".", "[ab]", "[^a]", "[]x]", "[^]a]", "[a-c€]", "[à-ü]"),
    *(r"\.", r"\d", r"\w", r"\s", r"\S", r"\W", r"\u20ac", r"\x41", r"\p{Lu}", r"\{", r"\n", r"[\d.]", r"[^\W\d]"),
    "[[:alpha:]]",
]
COUNTS = ["*", "+", "?", "{2}", "{1,2}", "{0,2}", "{,1}", "{2,}", "*?", "+?", "??", "{1,2}?", "{0}"]
ALPHABET = "aabbcxyAB1 .\n-€éü🦊K}{]k"


def random_pattern(random, depth=3):
    """Return a pattern of a few parts."""
    kind = random.random()
    if depth == 0 or kind < 0.35:
        return random.choice(ITEMS)
    if kind < 0.6:
        return "".join(random_pattern(random, depth - 1) for _ in range(random.randint(1, 3)))
    if kind < 0.75:
        bracket = random.choice(["(", "(?:"])
        return bracket + "|".join(random_pattern(random, depth - 1) for _ in range(random.randint(1, 3))) + ")"
    if kind < 0.8:
        return f"({random_pattern(random, depth - 1)}|)"
    return f"(?:{random_pattern(random, depth - 1)}){random.choice(COUNTS)}"


def random_text(random, most=6):
    """Return a text of the characters that such patterns may have."""
    return "".join(random.choice(ALPHABET) for _ in range(random.randint(0, most)))
