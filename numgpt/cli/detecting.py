"""numgpt detect: whether a text has a watermark, or looks as if a model had written it."""

from __future__ import annotations

import argparse
import json

from numgpt.cli.terminal import (
    Command,
    add_precision,
    add_watermark,
    load_model,
    load_tokenizer_alone,
    needed_text,
    parse_number_key,
    require,
    reread_as_utf8,
)

EXAMPLES = """examples:
  numgpt generate "Once" --watermark KEY | numgpt detect - --key KEY     was it written with this key?
  numgpt detect - --key KEY -m gpt2 --json < text.txt                    which tokenizer, and JSON
  numgpt detect - --key 15485863 --watermark-scheme green < text.txt     the mark that Transformers makes
  numgpt detect - < text.txt                                             without a key: hints, no proof"""


def detect(args: argparse.Namespace) -> None:
    """numgpt detect: show the evidence for a watermark, or without a key how likely the tokens are."""
    if args.key is not None:
        show_watermark(args)
        return
    if args.watermark_scheme:
        args.error("--watermark-scheme goes with --key KEY")
    from numgpt.checks import finite
    from numgpt.measure.hints import look

    text, model = needed_text(args, args.text), load_model(args)
    found = look(model, require(model.tokenizer, args.model).encode(text))
    if args.json:
        facts = {**found._asdict(), "perplexity": finite(found.perplexity)}
        print(json.dumps({"model": str(args.model), **facts}))
        return
    bursts = "-" if found.burstiness is None else f"{found.burstiness:.2f} bits a token from sentence to sentence"
    lines = {
        "tokens": str(found.tokens),
        "first 10 choices": f"{100 * found.top_10:.1f} %",
        "11th to 100th": f"{100 * found.top_100:.1f} %",
        "101st to 1,000th": f"{100 * found.top_1000:.1f} %",
        "beyond": f"{100 * found.rest:.1f} %",
        "perplexity": f"{found.perplexity:.6g}",
        "burstiness": bursts,
        "what that means": "a hint, no proof: likely tokens are what a model writes, and what plain writers do",
    }
    show(lines)


def show_watermark(args: argparse.Namespace) -> None:
    """Show the evidence for a watermark, for which the tokenizer is enough."""
    from numgpt.measure.watermarks import find_green_list, find_watermark

    text, tokenizer = needed_text(args, args.text), load_tokenizer_alone(args)
    ids = tokenizer.encode(text)
    if args.watermark_scheme == "green":
        found = find_green_list(ids, parse_number_key(args.key, "--key"), len(tokenizer))
    else:
        found = find_watermark(ids, reread_as_utf8(args.key))
    if args.json:
        parts = [part._asdict() for part in found.parts]
        print(json.dumps({"model": str(args.tokenizer or args.model), **found._asdict(), "parts": parts}))
        return
    best = min(found.parts, key=lambda part: part.p_value, default=None)
    lines = {
        "p-value": in_words(found.p_value),
        "tokens scored": f"{found.scored} of {found.tokens}",
        "score": f"{found.score:.6g}",
    }
    if best:
        passage = tokenizer.decode(ids[best.start : best.end])
        lines["p-value of its parts"] = f"{in_words(found.p_of_parts)}: {len(found.parts)} times the lowest, that of"
        lines[f"tokens {best.start} to {best.end}"] = f"{in_words(best.p_value)}: {passage[:60]!r}"
    show(lines)


def in_words(p_value: float) -> str:
    """Return a p-value as it is shown. One of 0 is below what a float holds."""
    return f"{p_value:.3g}" if p_value else "below 1e-300"


def show(lines: dict[str, str]) -> None:
    """Print figures, each with its name."""
    for name, value in lines.items():
        print(f"  {name:<26} {value}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt detect` takes."""
    parser.add_argument("text", nargs="?", help="the text (default: what is piped in, as with -)")
    add_watermark(parser, "--key", "the key of the watermark to look for; only the tokenizer of the model is read")
    add_precision(parser)


COMMANDS = {
    "detect": Command(EXAMPLES, add_arguments, detect),
}
