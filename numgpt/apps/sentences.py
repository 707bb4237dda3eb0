"""Where a sentence ends."""

import re

# Marks, and what closes behind them, up to white space or the end; or else an empty line. And the white space behind.
# Only the first of several marks begins an end: a long row of them that ends nothing is read once.
END = re.compile(r"""(?<![.!?])[.!?]+["'”’»)\]]*(?:\s+|\Z)|\n[^\S\n]*\n\s*""")


def split_sentences(text: str) -> list[str]:
    """Cut a text into its sentences, each with the white space behind it; together they are the text.

    text  any text
    A sentence ends with one or more of . ! ? and the quotes and brackets that close behind them, where white space or
    the end of the text follows, and with an empty line, as a heading does. What the text ends with is the last one.
    Notes: nothing is known of any language, so "Mr. Fox" and "3. May" are two sentences, "3.5" and "e.g.," are none,
    and marks of other scripts end nothing.

    >>> split_sentences('"Who is there?" said the fox. It was 3.5 feet')
    ['"Who is there?" ', 'said the fox. ', 'It was 3.5 feet']
    """
    cuts = [0]
    for end in END.finditer(text):
        if text[cuts[-1] : end.end()].strip():
            cuts.append(end.end())
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < b]


def first_sentences(text: str, n: int) -> str:
    """Return the first n sentences of a text, without white space around them; all of a text that has no more.

    >>> first_sentences(" He came. He saw. He won. He left.", 3)
    'He came. He saw. He won.'
    """
    return "".join(split_sentences(text)[:n]).strip()
