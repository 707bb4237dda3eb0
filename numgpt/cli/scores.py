"""numgpt score: how well a model predicts a text."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from numgpt.cli.jobs import add_job_options, check_job, job
from numgpt.cli.terminal import Command, add_cache, add_layers, add_precision, load_model, needed_text, note, require
from numgpt.errors import OptionError

EXAMPLES = """examples:
  numgpt score "Once upon a time there was a king"       each token coloured by how much it surprised the model
  numgpt score --file book.txt --stride 128              by windows that overlap more: slower, with more context
  numgpt score --file val.bin -m gpt2                    ids, as llm.c's data scripts write them
  numgpt score - --bos --json < text.txt                 log-probabilities, from the first token on
  numgpt score "The king" --color always | less -R
  numgpt score --input texts.jsonl --output out.jsonl    a job: start it again, and it goes on
  numgpt score --lambada lambada_test.jsonl -m gpt2      how many last words are predicted
  numgpt score --compare-weights int8 --file book.txt    what weights in 8 bits lose on this text"""


def score(args: argparse.Namespace) -> None:
    """numgpt score: show how well the model predicts a text, or the last word of each of many."""
    from numgpt.checks import finite
    from numgpt.measure import scoring

    check_job(args, given=False)  # which the parser has seen
    options = args.context, args.stride, args.bos, args.allow_special
    if args.lambada is not None and options != (None, None, False, False):
        raise OptionError("--lambada takes each text by itself: leave out --context, --stride, --bos, --allow-special")
    if args.compare_weights is not None:
        compare_weights(args)
        return
    rounded = {"cache_dtype": args.cache} if args.cache else {}
    model = load_model(args)
    content: Any = "" if args.file is None else given_content(args)
    tokenizer = require(model.tokenizer, args.model) if isinstance(content, str) else model.tokenizer
    if args.input is not None:
        job(args, model, {"context": args.context, "stride": args.stride, "bos": args.bos, **rounded})
        return
    start = time.perf_counter()
    facts: dict[str, Any]
    figures: dict[str, float | None]
    if args.lambada is not None:
        with Path(args.lambada).open("rb") as lines:
            last = scoring.score_last_words(model, lines, **rounded)
        pieces, facts = [], {"texts": last.texts, "correct": last.correct}
        figures = {"accuracy": last.accuracy, "perplexity_per_last_word": last.perplexity}
        conventions = {
            "correct": f"{last.correct} of {last.texts} last words: each token the likeliest; no stop-word filter"
        }
    else:
        content = given_content(args) if args.file is None else content
        if isinstance(content, str) and tokenizer:
            content = tokenizer.encode(content, allow_special=args.allow_special)
        found = scoring.score(model, content, context=args.context, stride=args.stride, bos=args.bos, **rounded)
        pieces, facts = tokenizer.pieces(found.ids) if tokenizer else [], found._asdict()
        facts["log_probs"] = [finite(x) for x in found.log_probs]
        facts["ranks"] = [rank or None for rank in found.ranks.tolist()]
        facts["pieces"] = [piece.decode("utf-8", "backslashreplace") for piece in pieces]
        names = ["nats", "nats_per_token", "bits_per_token", "bits_per_byte", "perplexity", "perplexity_per_word"]
        names += ["perplexity_by_recipe"] if args.json else []  # for comparison, where it can't be mistaken
        figures = {name: getattr(found, name) for name in names}
        length, made = len(found.ids), f"{found.bytes} bytes, {found.words} words (parted by white space)"
        conventions = {
            "tokens scored": f"{found.tokens} of {length}, in windows of {found.context}, one every {found.stride}",
            "their text": made if tokenizer else "not known without a tokenizer",
            "before the text": "end-of-text" if args.bos else "nothing, so its first token is not scored",
        }
    if args.json:
        print(json.dumps({"model": str(args.model), **facts, **{name: finite(x) for name, x in figures.items()}}))
    else:
        on_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        if pieces and (args.color == "always" or (args.color == "auto" and on_terminal)):
            from numgpt.cli.colours import SHADES, paint

            print(*paint(pieces, found.log_probs), sep="", end="\n\n")
            shades = (f"\x1b[30;48;5;{shade}m {bits} \x1b[0m" for bits, shade in SHADES.items())
            conventions["colours"] = f"from {''.join(shades)} bits on"
        for name, value in conventions.items():
            print(f"  {name:<26} {value}")
        for name, x in figures.items():
            print(f"  {name.replace('_', ' '):<26} {'-' if x is None else format(x, '.6g')}")
    note(args, f"{time.perf_counter() - start:.2f} s")


def given_content(args: argparse.Namespace) -> Any:
    """Return the text to score, or the ids of a file that has those."""
    from numgpt.checkpoint.llmc_tokens import text_or_ids

    return (
        needed_text(args, args.text)
        if args.file is None
        else text_or_ids(Path(args.file).read_bytes(), Path(args.file))
    )


def compare_weights(args: argparse.Namespace) -> None:
    """numgpt score --compare-weights: show what a model loses when its weights are kept in fewer bits."""
    from numgpt.checks import finite
    from numgpt.measure.comparing import compare

    for name in "input", "lambada", "context", "stride", "weights":
        if getattr(args, name) is not None:
            args.error(f"--{name} does not go with --compare-weights")
    model = load_model(args)
    content = given_content(args)
    if isinstance(content, str):
        content = require(model.tokenizer, args.model).encode(content, allow_special=args.allow_special)
    args.weights = args.compare_weights
    found = compare(model, load_model(args), content)
    facts = {"model": str(args.model), "weights": args.compare_weights, **found._asdict()}
    if args.json:
        print(json.dumps({name: finite(x) if isinstance(x, float) else x for name, x in facts.items()}))
        return
    change = 100 * (found.perplexity_of_other / found.perplexity - 1)
    lines = {
        "tokens compared": found.tokens,
        "perplexity": f"{found.perplexity:.6g}",
        f"perplexity, {args.compare_weights}": f"{found.perplexity_of_other:.6g}, {change:+.2f} %",
        "KL divergence, mean": f"{found.kl_mean:.3g} nats",
        "KL divergence, 99 of 100": f"below {found.kl_99:.3g} nats",
        "same first choice": f"{100 * found.same_first:.2f} %",
    }
    for name, value in lines.items():
        print(f"  {name:<26} {value}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt score` takes."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", nargs="?", help="the text (default: what is piped in, as with -)")
    source.add_argument("--file", metavar="FILE", help="read the text from a file; or its ids, in llm.c's format")
    about_input = (
        'score each of many: lines of JSON, {"text": ...}, or {"context": ..., "text": ...}: text after context'
    )
    source.add_argument("--input", metavar="FILE", help=about_input)
    add_job_options(parser)
    source.add_argument("--lambada", metavar="FILE", help='predict last words instead: lines of JSON, {"text": ...}')
    add = parser.add_argument
    add("--context", type=int, metavar="N", help="tokens of a window (default: all that the model can see)")
    add("--stride", type=int, metavar="N", help="tokens from one window to the next (default: half the context)")
    add("--bos", action="store_true", help="put the end-of-text token before, so that the first token is scored")
    add("--color", choices=["auto", "always", "never"], default="auto", help="colour the text (default: on a terminal)")
    add_precision(parser)
    about_comparison = "show what these weights lose on the text: perplexity, divergence, first choices"
    add("--compare-weights", choices=["int8", "keep"], help=about_comparison)
    add_cache(parser)
    add_layers(parser)
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "score": Command(EXAMPLES, add_arguments, score),
}
