"""numgpt generate: continue a text."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numgpt.cli.jobs import add_job_options, check_job, job
from numgpt.cli.terminal import (
    TEMPERATURE,
    TOP_K,
    Command,
    add_cache,
    add_precision,
    add_watermark,
    given_text,
    load_model,
    note,
    require,
    reread_as_utf8,
    watermark_options,
)
from numgpt.errors import NumgptError, OptionError

if TYPE_CHECKING:
    from numgpt.decoding.rules import Completion
    from numgpt.model import Ids, Model
    from numgpt.tokenizer import Tokenizer

EXAMPLES = """examples:
  numgpt generate "Once upon a time"
  numgpt generate "Once upon a time" --seed 1 -n 60      the same text each time
  numgpt generate "The" --temperature 0                  greedy: always the most likely token
  numgpt generate "The" --top-k 0 --top-p 0.95           nucleus sampling alone
  numgpt generate "The" --stop "." --num-return-sequences 3
  numgpt generate "The" --num-beams 5 --num-return-sequences 5
  numgpt generate "The" -n 3000 --overflow slide         past the context limit
  numgpt generate "He was born in" --regex " [0-9]{4}\\."  a form that the new text keeps to
  numgpt generate "The" --watermark KEY                  found again by numgpt detect - --key KEY
  numgpt generate                                        from nothing: the end-of-text token
  numgpt generate --input prompts.jsonl --output out.jsonl     a job: start it again, and it goes on
  numgpt generate -- "- a list"                          a text that begins with a dash
  cat prompt.txt | numgpt generate -m path/to/gpt2"""

OPTIONS = (  # of `numgpt generate`, by the names that they have in Python; those that are not given keep their defaults
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "regex", "min_new_tokens"),
    *("overflow", "num_beams", "length_penalty", "early_stopping", "guidance_scale"),
)


def generate(args: argparse.Namespace) -> None:
    """numgpt generate: show the prompt and what follows it, token by token, or several texts."""
    from numgpt.decoding.rules import random_seed
    from numgpt.decoding.text import start_ids

    check_usage(args)
    model = load_model(args)
    tokenizer = require(model.tokenizer, args.model)
    if args.input is not None:
        job(args, model, generate_options(args, tokenizer))
        return
    prompt = given_text(args, args.prompt) or ""
    if args.prompt in (None, "-"):
        prompt = prompt.removesuffix("\n")  # the end of the last line of what is piped, which is not meant
    ids = start_ids(model, tokenizer.encode(prompt, allow_special=args.allow_special))
    seed = random_seed() if args.seed is None else args.seed
    options = {**generate_options(args, tokenizer), **second_opinion(args), "seed": seed}
    draws = options.get("temperature", 0) != 0  # a search has none
    count, start = 0, time.perf_counter()
    for text, done in texts(args, model, prompt, ids, options):
        count += len(done.ids)
        if args.json:
            result: dict[str, Any] = {
                "prompt": prompt,
                "text": text,
                "ids": done.ids,
                "finish_reason": done.finish_reason,
            }
            result |= {"seed": seed if draws else None, "prompt_tokens": len(ids)}
            result |= {} if done.score is None else {"score": done.score}
            result |= {} if args.logprobs is None else {"logprobs": log_probs(model, ids, done.ids, args)}
            print(json.dumps({"model": str(args.model), **result}))
        elif not (prompt + text).endswith("\n"):
            print(flush=True)
        if done.finish_reason == "context":
            note(args, f"stopped at the context limit of {model.config.n_ctx} tokens (--overflow slide goes on)")
    seconds = time.perf_counter() - start
    n_ctx, half = model.config.n_ctx, model.config.n_ctx // 2
    if args.overflow == "slide" and len(ids) + count > n_ctx:
        note(args, f"went on past the {n_ctx} tokens of the context: each time the last {half} of them, computed anew")
    tokens = f"{count} token{'' if count == 1 else 's'}"
    note(args, f"{tokens} in {seconds:.2f} s, {count / seconds:.1f} tokens/s")


def texts(
    args: argparse.Namespace, model: Model, prompt: str, ids: Ids, options: dict[str, Any]
) -> Iterator[tuple[str, Completion]]:
    """Make the texts of a prompt and show them, a single one as it comes. Yield each when it is done."""
    from numgpt.decoding.rules import Completion
    from numgpt.decoding.text import stream_ids, text_of
    from numgpt.model import tokenizer_of

    def tell_seed() -> None:
        if args.seed is None and options.get("temperature"):
            note(args, f"seed {options['seed']}")

    if args.num_return_sequences == args.num_beams == 1:
        pieces = stream_ids(model, ids, **options)
        tell_seed()
        show(args, prompt)
        text = ""
        try:
            for piece in pieces:
                show(args, piece)
                text += piece
        except NumgptError:
            show(args, "\n")  # so that the error has a line of its own
            raise
        yield text, Completion(0, pieces.ids, pieces.finish_reason)
        return
    from numgpt.decoding.batch import complete_batch  # here, as a single text does without

    options = {**options, "tokenizer": model.tokenizer, "num_return_sequences": args.num_return_sequences}
    batch = complete_batch([ids], model.params, model.config, **options)
    tell_seed()
    for done in sorted(batch):
        text = text_of(done.ids, tokenizer_of(model), options["stop_strings"])
        show(args, "\n" * (done.number > 0) + prompt + text)
        yield text, done


def log_probs(model: Model, ids: Ids, new_ids: list[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return for each new token its log-probability, and the likeliest tokens at its place with theirs.

    They are those of the model itself, before temperature and all other controls.
    """
    from numgpt.measure.scoring import likeliest
    from numgpt.model import tokenizer_of

    tokenizer = tokenizer_of(model)

    def token(i: int, log_prob: float) -> dict[str, Any]:
        return {"id": i, "token": tokenizer.pieces([i])[0].decode("utf-8", "backslashreplace"), "log_prob": log_prob}

    found = likeliest(model, [*ids, *new_ids], len(ids), args.logprobs, cache_dtype=args.cache)
    return [
        {**token(i, log_prob), "top": [token(*other) for other in others]}
        for i, (log_prob, others) in zip(new_ids, found, strict=True)
    ]


def check_usage(args: argparse.Namespace) -> None:
    """Exit with a word on the usage where options don't go together."""
    check_job(args, given=args.prompt is not None)
    others = args.contrast, args.expert, args.anti_expert
    if args.input is not None and any(others):
        args.error("--contrast, --expert and --anti-expert make one text, and go without --input")
    if args.strength is not None and not any(others):
        args.error("--strength is that of --contrast, --expert and --anti-expert")
    if args.logprobs is not None:
        if not args.json or args.input is not None:
            args.error("--logprobs goes with --json, and not with --input")
        if args.overflow == "slide":
            args.error("--logprobs are of one context: leave out --overflow slide")
        if args.logprobs < 0:
            args.error("--logprobs is the number of likeliest tokens to show, 0 or more")


def show(args: argparse.Namespace, text: str) -> None:
    """Print a piece of a text at once, unless JSON is asked for."""
    if not args.json:
        print(text, end="", flush=True)


def generate_options(args: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the options of `generate` that the command line gives, in values of JSON, without a seed."""
    options: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.num_beams == 1:  # a search draws nothing
        options = {"temperature": TEMPERATURE, "top_k": TOP_K, **options}
    options |= {"cache_dtype": args.cache} if args.cache else {}
    options |= {"negative_prompt": reread_as_utf8(args.negative_prompt)} if args.negative_prompt is not None else {}
    options |= watermark_options(args)
    options["stop_strings"] = [reread_as_utf8(stop) for stop in args.stop]
    options["bad_words"] = [tokenizer.encode_part(reread_as_utf8(text)) for text in args.bad_words] or None
    options["ban"] = [reread_as_utf8(text) for text in args.ban] or None
    options["logit_bias"] = list(dict(parse_bias(text, tokenizer) for text in args.logit_bias).items()) or None
    return options


def second_opinion(args: argparse.Namespace) -> dict[str, Any]:
    """Return the option of `generate` that asks other models, which the command line names."""
    from numgpt.decoding.steering import contrast, experts
    from numgpt.hub.loading import load

    named = {name: getattr(args, name) for name in ("contrast", "expert", "anti_expert") if getattr(args, name)}
    if not named:
        return {}
    if "contrast" in named and len(named) > 1:
        args.error("--contrast goes without --expert and --anti-expert")
    strength = {} if args.strength is None else {"strength": args.strength}
    models = {name: load(model, dtype=args.dtype, weights=args.weights) for name, model in named.items()}
    if "contrast" in models:
        return {"steering": contrast(models["contrast"], **strength)}
    return {"steering": experts(models.get("expert"), models.get("anti_expert"), **strength)}


def parse_early_stopping(text: str) -> bool | str:
    """Return True or False, or text that is neither as it is."""
    return {"true": True, "false": False}.get(text.lower(), text)


def parse_bias(text: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], float]:
    """Return the ids and the number of a bias, "TEXT=NUMBER"."""
    words, _, number = reread_as_utf8(text).rpartition("=")
    try:
        return tuple(tokenizer.encode_part(words)), float(number)
    except ValueError:
        raise OptionError(f"--logit-bias is {text!r:.80}, expected TEXT=NUMBER, as in ' king=2.5'") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt generate` takes."""
    about_prompt = "the text to continue (default: what is piped in, less a last newline, as with -)"
    parser.add_argument("prompt", nargs="?", help=about_prompt)
    parser.add_argument("--input", metavar="FILE", help='continue each of many: lines of JSON, {"prompt": ...}')
    add_job_options(parser)
    add = parser.add_argument
    add("-n", "--max-new-tokens", type=int, default=200, metavar="N", help="the most tokens to make (default: 200)")
    add("--temperature", type=float, metavar="T", help=f"0 is greedy (default: {TEMPERATURE})")
    add("--top-k", type=int, metavar="K", help=f"keep the K likeliest tokens; 0 for all (default: {TOP_K})")
    add("--top-p", type=float, metavar="P", help="keep the fewest tokens that reach this probability together")
    add("--min-p", type=float, metavar="P", help="keep the tokens at least P times as likely as the likeliest")
    add("--repetition-penalty", type=float, metavar="R", help="above 1: avoid tokens already there")
    about_guidance = "above 1: follow the prompt more closely, away from the negative one, or from nothing"
    add("--guidance-scale", type=float, metavar="S", help=about_guidance)
    add("--negative-prompt", metavar="TEXT", help="what --guidance-scale leads away from")
    add("--contrast", metavar="MODEL", help="a smaller model of the same vocabulary, whose habits are not wanted")
    add("--expert", metavar="MODEL", help="lead towards this model of the same vocabulary")
    add("--anti-expert", metavar="MODEL", help="lead away from this one")
    about_strength = "how strongly (default: 0.5 with --contrast, 2 with --expert and --anti-expert)"
    add("--strength", type=float, metavar="A", help=about_strength)
    add("--presence-penalty", type=float, metavar="P", help="above 0, to 2: avoid tokens that were written already")
    add("--frequency-penalty", type=float, metavar="P", help="above 0, to 2: the more so, the more often they were")
    add("--no-repeat-ngram-size", type=int, metavar="N", help="let no N tokens in a row come twice")
    add(
        "--bad-words", action="append", default=[], metavar="TEXT", help="ban a text; ' king' is not 'king'; repeatable"
    )
    add("--ban", action="append", default=[], metavar="TEXT", help="ban a text, in whatever tokens; repeatable")
    add("--regex", metavar="PATTERN", help="let the new text match this pattern, from its beginning to its end")
    add("--logit-bias", action="append", default=[], metavar="TEXT=B", help="add B to the logit of a text; repeatable")
    add("--min-new-tokens", type=int, metavar="N", help="no end-of-text before so many new tokens")
    add("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    add("--num-beams", type=int, default=1, metavar="N", help="above 1: draw nothing, search for the likeliest text")
    add("--length-penalty", type=float, metavar="P", help="beams: above 0 favours long texts (default: 1)")
    about_stopping = "beams: end at once when N texts have ended (true), or when no better can come (false)"
    add("--early-stopping", type=parse_early_stopping, metavar="true|false|never", help=about_stopping)
    add("--num-return-sequences", type=int, default=1, metavar="N", help="make N texts of the prompt (default: 1)")
    add(
        "--overflow",
        choices=["stop", "slide"],
        default="stop",
        help="at the context limit, stop, or go on with its last half, which is then computed anew (default: stop)",
    )
    add("--seed", type=int, metavar="N", help="the same seed makes the same text (default: another each time)")
    about_logprobs = "with --json: the log-probability of each token, and the N likeliest at its place with theirs"
    add("--logprobs", type=int, metavar="N", help=about_logprobs)
    add_precision(parser)
    add_cache(parser)
    add_watermark(parser, "--watermark", "mark the text, so that numgpt detect --key KEY knows it again")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the prompt as the token, not as text")


COMMANDS = {
    "generate": Command(EXAMPLES, add_arguments, generate),
}
