"""numgpt summarize and numgpt translate: work that is done on a file."""

from __future__ import annotations

import argparse
import json
from typing import Any

from numgpt.cli.terminal import (
    ABOUT_SEED,
    Command,
    add_cache,
    add_weights,
    chosen_seed,
    load_model,
    note,
    read_file,
    require,
)

SUMMARIZE_EXAMPLES = """examples:
  numgpt summarize article.txt -m gpt2-xl
  cat article.txt | numgpt summarize - --seed 1 --json   the prompts too

The prompt is that of the GPT-2 paper: the article, then "TL;DR:". The model goes on by 100 tokens, drawn with top-k,
k = 2, and their first three sentences are the summary. What is too long for the context is summarized in parts.
gpt2-xl does it best. It looks to the end of an article most, and mixes up details; in the paper, three sentences of the
article picked at random score nearly as well. The storyteller only knows how to tell tales."""
TRANSLATE_EXAMPLES = """examples:
  numgpt translate letter.txt --from fr --to en -m gpt2-xl
  echo "The house is old." | numgpt translate -m gpt2-xl
  numgpt translate text.txt --from en --to de --pairs pairs.txt

The prompt is that of the GPT-2 paper: example pairs, "english sentence = french sentence", then "english sentence =".
Decoding is greedy, and the first sentence of what follows is the translation. In a file of pairs each line is
"sentence = translation". gpt2-xl does it best, and that is not well: in the paper 11.5 BLEU from French to English, and
5 from English to French, less than word by word with a dictionary. The storyteller knows no French."""


def summarize(args: argparse.Namespace) -> None:
    """numgpt summarize: show a summary of a file, or of each of its parts."""
    from numgpt.apps.summarize import split_article, summarize_part

    article = read_file(args.file)
    model = load_model(args)
    require(model.tokenizer, args.model)
    parts = split_article(model, article)
    if len(parts) > 1:
        note(
            args, f"too long for the context of {model.config.n_ctx} tokens: {len(parts)} parts, each with its summary"
        )
    seed = chosen_seed(args)
    found: list[Any] = []
    for number, part in enumerate(parts):
        summary = summarize_part(model, part, seed, stream=number, cache_dtype=args.cache)
        if not args.json:
            print("\n" * bool(found) + summary.summary, flush=True)
        found.append(summary)
    if args.json:
        whole = "\n\n".join(part.summary for part in found)
        rows = [part._asdict() for part in found]
        print(json.dumps({"model": str(args.model), "seed": seed, "summary": whole, "parts": rows}))


def translate(args: argparse.Namespace) -> None:
    """numgpt translate: show the translation of a file, line by line."""
    from numgpt.apps.translate import known_pairs, read_pairs
    from numgpt.apps.translate import translate as translations_of

    pairs = read_pairs(read_file(args.pairs), args.pairs) if args.pairs else known_pairs(args.source, args.target)
    text = read_file(args.file)
    model = load_model(args)
    require(model.tokenizer, args.model)
    rows: list[dict[str, Any]] = []
    lines, fewest = [], len(pairs)
    for line in text.splitlines():
        sentences = []
        for found in translations_of(model, line, pairs, args.cache):
            sentences.append(found.translation)
            rows.append(found._asdict())
            if found.pairs < fewest:
                fewest = found.pairs
                note(args, f"only the last {fewest} of {len(pairs)} example pairs fit beside {found.sentence!r:.60}")
        lines.append(" ".join(sentences))
        if not args.json:
            print(lines[-1], flush=True)
    if args.json:
        result = {"from": args.source, "to": args.target, "translation": "\n".join(lines), "sentences": rows}
        print(json.dumps({"model": str(args.model), **result}))


def add_summarize_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt summarize` takes."""
    parser.add_argument("file", metavar="FILE", help="the file to read; - reads standard input")
    parser.add_argument("--seed", type=int, metavar="N", help=ABOUT_SEED)
    add_weights(parser)
    add_cache(parser)


def add_translate_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt translate` takes."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="the file to read (default: standard input)",
    )
    parser.add_argument("--from", dest="source", metavar="LANGUAGE", default="en", help="of the text (default: en)")
    parser.add_argument("--to", dest="target", metavar="LANGUAGE", default="fr", help="to translate to (default: fr)")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="example pairs, for other languages than en and fr or other texts",
    )
    add_weights(parser)
    add_cache(parser)


COMMANDS = {
    "summarize": Command(SUMMARIZE_EXAMPLES, add_summarize_arguments, summarize),
    "translate": Command(TRANSLATE_EXAMPLES, add_translate_arguments, translate),
}
