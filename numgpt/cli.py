"""The command line: the only place that prints or exits.

NumPy and the model are imported when a command runs, so that --help and --version wait for neither.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numgpt
from numgpt.errors import CheckpointError, NumgptError, OptionError, TokenError
from numgpt.progress import format_bytes
from numgpt.tokenizer import Tokenizer

OPTIONS = (  # of `numgpt generate`, by the names that they have in Python; those that are not given keep their defaults
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("min_new_tokens", "overflow", "num_beams", "length_penalty", "early_stopping"),
)
EXAMPLES = {
    "numgpt": """examples:
  numgpt generate "Once upon a time"
  echo "The king said" | numgpt generate - --seed 1 -n 100
  numgpt generate "Once" -m path/to/gpt2 --temperature 0 --json
  numgpt tokenize "Hello, world"
  numgpt inspect -m storyteller
  numgpt models""",
    "generate": """examples:
  numgpt generate "Once upon a time"
  numgpt generate "Once upon a time" --seed 1 -n 60      the same text each time
  numgpt generate "The" --temperature 0                  greedy: always the most likely token
  numgpt generate "The" --top-k 0 --top-p 0.95           nucleus sampling alone
  numgpt generate "The" --stop "." --num-return-sequences 3
  numgpt generate "The" --num-beams 5 --num-return-sequences 5
  numgpt generate "The" -n 3000 --overflow slide         past the context limit
  numgpt generate                                        from nothing: the end-of-text token
  numgpt generate -- "- a list"                          a text that begins with a dash
  cat prompt.txt | numgpt generate - -m path/to/gpt2""",
    "tokenize": """examples:
  numgpt tokenize "Hello, world"
  numgpt tokenize -m gpt2 "Hello, world"                 GPT-2's vocabulary comes with numgpt
  numgpt tokenize --allow-special "<|endoftext|>"
  cat text.txt | numgpt tokenize - --json""",
    "inspect": """examples:
  numgpt inspect
  numgpt inspect -m path/to/model.safetensors --json""",
    "download": """examples:
  numgpt download gpt2
  numgpt download distilbert/distilgpt2
  numgpt download owner/name@revision
  numgpt download 124M                                   OpenAI's original
  HF_ENDPOINT=https://mirror.example numgpt download gpt2-xl""",
    "convert": """examples:
  numgpt convert path/to/ckpt.pt my-gpt2
  numgpt convert 124M gpt2-for-transformers
  numgpt convert storyteller copy""",
    "verify": """examples:
  numgpt verify --published -m gpt2
  numgpt verify --published -m 124M --json
  numgpt verify --published -m path/to/folder --as distilgpt2""",
    "score": """examples:
  numgpt score "Once upon a time there was a king"       each token coloured by how much it surprised the model
  numgpt score --file book.txt --stride 128              by windows that overlap more: slower, with more context
  numgpt score - --bos --json < text.txt                 log-probabilities, from the first token on
  numgpt score "The king" --color always | less -R
  numgpt score --lambada lambada_test.jsonl -m gpt2      how many last words are predicted""",
    "bench": """examples:
  numgpt bench
  numgpt bench -m path/to/gpt2 --json""",
    "models": """examples:
  numgpt models
  NUMGPT_WEIGHTS=/data/gpt2 numgpt models --json""",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser().parse_args(argv)
        with exit_at_ctrl_c():
            import numpy as np
        # What Python and NumPy would warn of is said once, and in our words: the context limit, logits that overflow.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args.run(args)
        print(end="", flush=True)
    except NumgptError as error:
        return fail(error)
    except KeyboardInterrupt:
        say("")
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough: `| head`
        discard_output()
        return 141
    except OSError as error:
        discard_output()
        return fail(f"{error.filename or 'standard output'}: {error.strerror}")
    except MemoryError:
        return fail("out of memory: the checkpoint does not fit; numgpt inspect shows what it needs")
    return 0


@contextmanager
def exit_at_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process while NumPy is imported, which swallows exceptions or makes ImportErrors of them."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # or else Ctrl-C is ignored, as behind `nohup` or `&`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    yield
    signal.signal(signal.SIGINT, interrupt)


def generate(args: argparse.Namespace) -> None:
    """numgpt generate: show the prompt and what follows it, token by token, or several texts."""
    from numgpt.completion import start_ids, until

    model = load_model(args)
    tokenizer = require(model.tokenizer, args.model)
    prompt = read_text(args.prompt)
    if args.prompt == "-":
        prompt = prompt.removesuffix("\n")  # the end of the last line, which is not meant
    ids = start_ids(model, tokenizer.encode(prompt, allow_special=args.allow_special))
    seed = int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed
    stops = [reread_as_utf8(stop) for stop in args.stop]
    options: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.num_beams == 1:  # a search draws nothing
        options = {"temperature": 0.8, "top_k": 40, **options}
    options |= {"seed": seed, "stop_strings": stops, "tokenizer": tokenizer}
    options["bad_words"] = [tokenizer.encode(reread_as_utf8(text)) for text in args.bad_words] or None
    options["logit_bias"] = dict(parse_bias(text, tokenizer) for text in args.logit_bias) or None
    texts = started(args.num_return_sequences, ids, model, options)
    if args.seed is None and options.get("temperature"):
        note(args, f"seed {seed}")

    start, count = time.perf_counter(), 0
    for number, steps in enumerate(texts):
        new_ids: list[int] = []
        finish_reason, text = "stop", ""  # unless the generator comes to its end, and says why

        def watched(steps: Generator[int, None, str] = steps, new_ids: list[int] = new_ids) -> Iterator[int]:
            nonlocal finish_reason
            while True:
                try:
                    new_ids.append(next(steps))
                except StopIteration as end:
                    finish_reason = end.value
                    return
                yield new_ids[-1]

        show = (lambda text: None) if args.json else (lambda text: print(text, end="", flush=True))
        show("\n" * (number > 0) + prompt)
        try:
            for piece in until(tokenizer.decode_stream(watched()), stops):
                show(piece)
                text += piece
        except NumgptError:
            show("\n")  # so that the error has a line of its own
            raise
        if args.json:
            result = {"prompt": prompt, "text": text, "ids": new_ids, "finish_reason": finish_reason, "seed": seed}
            print(json.dumps({"model": str(args.model), **result}))
        elif not (prompt + text).endswith("\n"):
            print(flush=True)
        if finish_reason == "context":
            note(args, f"stopped at the context limit of {model.config.n_ctx} tokens (--overflow slide goes on)")
        count += len(new_ids)
    seconds = time.perf_counter() - start
    n_ctx, half = model.config.n_ctx, model.config.n_ctx // 2
    if args.overflow == "slide" and len(ids) + count > n_ctx:
        note(args, f"went on past the {n_ctx} tokens of the context: each time the last {half} of them, computed anew")
    tokens = f"{count} token{'' if count == 1 else 's'}"
    note(args, f"{tokens} in {seconds:.2f} s, {count / seconds:.1f} tokens/s")


def started(
    n: int, ids: list[int], model: numgpt.models.Model, options: dict[str, Any]
) -> Iterator[Generator[int, None, str]]:
    """Return what makes each of n texts of a prompt: one as it is asked for, several in a batch."""
    from numgpt.decoding.batch import Completion, complete_batch
    from numgpt.decoding.lookup import PromptLookup

    if n == 1:
        forward, guess = numgpt.fast.forward, PromptLookup()
        return iter([numgpt.generate(ids, model.params, model.config, forward=forward, guess=guess, **options)])
    batch = complete_batch([ids], model.params, model.config, num_return_sequences=n, **options)

    def replay(done: Completion) -> Generator[int, None, str]:
        yield from done.ids
        return done.finish_reason

    def in_order() -> Iterator[Generator[int, None, str]]:
        yield from map(replay, sorted(batch))

    return in_order()


def parse_early_stopping(text: str) -> bool | str:
    """Return True or False, or text that is neither as it is."""
    return {"true": True, "false": False}.get(text.lower(), text)


def parse_bias(text: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], float]:
    """Return the ids and the number of a bias, "TEXT=NUMBER"."""
    words, _, number = reread_as_utf8(text).rpartition("=")
    try:
        return tuple(tokenizer.encode(words)), float(number)
    except ValueError:
        raise OptionError(f"--logit-bias is {text!r:.80}, expected TEXT=NUMBER, as in ' king=2.5'") from None


def tokenize(args: argparse.Namespace) -> None:
    """numgpt tokenize: show the ids of a text, each with its piece."""
    tokenizer = require(numgpt.models.load_tokenizer(args.model), args.model)
    ids = tokenizer.encode(read_text(args.text), allow_special=args.allow_special)
    pieces = tokenizer.pieces(ids)
    if args.json:
        print(json.dumps({"ids": ids, "pieces": [piece.decode("utf-8", "backslashreplace") for piece in pieces]}))
        return
    for i, piece in zip(ids, pieces, strict=True):
        try:
            print(f"{i:>7}  {piece.decode('utf-8')!r}")
        except UnicodeDecodeError:  # a part of a character
            print(f"{i:>7}  {piece!r}")


def score(args: argparse.Namespace) -> None:
    """numgpt score: show how well the model predicts a text, or the last word of each of many."""
    from numgpt import scoring

    options = args.context, args.stride, args.bos, args.allow_special
    if args.lambada is not None and options != (None, None, False, False):
        raise OptionError("--lambada takes each text by itself: leave out --context, --stride, --bos, --allow-special")
    model = load_model(args)
    tokenizer = require(model.tokenizer, args.model)
    start = time.perf_counter()
    facts: dict[str, Any]
    figures: dict[str, float | None]
    if args.lambada is not None:
        with Path(args.lambada).open("rb") as lines:
            last = scoring.score_last_words(model, lines)
        pieces, facts = [], {"texts": last.texts, "correct": last.correct}
        figures = {"accuracy": last.accuracy, "perplexity_per_last_word": last.perplexity}
        conventions = {
            "correct": f"{last.correct} of {last.texts} last words: each token the likeliest; no stop-word filter"
        }
    else:
        try:
            text = read_text(args.text) if args.file is None else Path(args.file).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenError(f"{args.file}: byte at {error.start} is not UTF-8: convert it") from None
        ids = tokenizer.encode(text, allow_special=args.allow_special)
        found = scoring.score(model, ids, context=args.context, stride=args.stride, bos=args.bos)
        pieces, facts = tokenizer.pieces(ids), found._asdict()
        facts["log_probs"] = [x if math.isfinite(x) else None for x in found.log_probs]
        facts["pieces"] = [piece.decode("utf-8", "backslashreplace") for piece in pieces]
        names = ["nats", "nats_per_token", "bits_per_token", "bits_per_byte", "perplexity", "perplexity_per_word"]
        names += ["perplexity_by_recipe"] if args.json else []  # for comparison, where it can't be mistaken
        figures = {name: getattr(found, name) for name in names}
        conventions = {
            "tokens scored": f"{found.tokens} of {len(ids)}, in windows of {found.context}, one every {found.stride}",
            "their text": f"{found.bytes} bytes, {found.words} words (parted by white space)",
            "before the text": "end-of-text" if args.bos else "nothing, so its first token is not scored",
        }
    if args.json:
        finite = {name: x if x is not None and math.isfinite(x) else None for name, x in figures.items()}
        print(json.dumps({"model": str(args.model), **facts, **finite}))
    else:
        on_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        if pieces and (args.color == "always" or (args.color == "auto" and on_terminal)):
            print(*scoring.paint(pieces, found.log_probs), sep="", end="\n\n")
            shades = (f"\x1b[30;48;5;{shade}m {bits} \x1b[0m" for bits, shade in scoring.SHADES.items())
            conventions["colours"] = f"from {''.join(shades)} bits on"
        for name, value in conventions.items():
            print(f"  {name:<26} {value}")
        for name, x in figures.items():
            print(f"  {name.replace('_', ' '):<26} {'-' if x is None else format(x, '.6g')}")
    note(args, f"{time.perf_counter() - start:.2f} s")


def inspect(args: argparse.Namespace) -> None:
    """numgpt inspect: show what a checkpoint holds, and whether it is sound."""
    import numpy as np

    from numgpt.checkpoint.names import match_params
    from numgpt.params import count_params

    with bar(args) as progress:
        checkpoint = numgpt.models.open_checkpoint(args.model, progress)
    config, misfit = checkpoint.config, None
    try:
        match_params(checkpoint.hub_tensors, config, source=str(checkpoint.weights))
    except CheckpointError as error:
        misfit = error
    tensors: list[dict[str, Any]] = []
    for name, tensor in checkpoint.tensors.items():
        array = tensor.read()
        bad = array.size - int(np.isfinite(array).sum())
        tensors.append({"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape), "non_finite": bad})
    parameters = sum(math.prod(row["shape"]) for row in tensors) if misfit else count_params(config)
    cache = 2 * config.n_layer * config.n_ctx * config.n_embd
    summary: dict[str, Any] = {
        "weights": str(checkpoint.weights),
        "config": {key: value for key, value in config._asdict().items() if key != "n_tokens"},
        "parameters": parameters,
        "float32_bytes": 4 * parameters,
        "cache_bytes": 4 * cache,
        "tensors": tensors,
        "non_finite": sum(row["non_finite"] for row in tensors),
    }
    if args.json:
        print(json.dumps(summary))
    else:
        print(checkpoint.weights, end="\n\n")
        for key, value in summary["config"].items():
            print(f"  {key:<32} {value}")
        print(f"\n  {'tensor':<40} {'dtype':<6} shape")
        for row in tensors:
            flaw = f"   {row['non_finite']} NOT FINITE" if row["non_finite"] else ""
            print(f"  {row['name']:<40} {row['dtype']:<6} {' x '.join(map(str, row['shape'])) or 'scalar'}{flaw}")
        print(f"\n  {parameters:,} parameters: {format_bytes(4 * parameters)} in memory as float32")
        print(f"  {format_bytes(4 * cache)} more for the keys and values of a full context")
        print(f"  {summary['non_finite']} values that are not finite")
    if args.check:
        check(checkpoint)
    if misfit:
        raise misfit


def check(checkpoint: numgpt.models.Checkpoint) -> None:
    """Compare the bytes of each tensor with the checksum that its file has of them."""
    if checkpoint.kind != "tensorflow":
        raise CheckpointError(
            f"{checkpoint.weights}: a {checkpoint.kind} file has no checksums, so --check is for others"
        )
    from numgpt.checkpoint.tensorflow import check_tensors

    damaged = [name for name, sound in check_tensors(checkpoint.weights) if not sound]
    if damaged:
        raise CheckpointError(f"{checkpoint.weights}: damaged: {', '.join(damaged)}: download it again")
    say(f"numgpt: the checksums of all {len(checkpoint.tensors)} tensors are right")


def download(args: argparse.Namespace) -> None:
    """numgpt download: fetch a checkpoint that is known by name or lies on the Hugging Face Hub."""
    from numgpt.download import download as fetch_checkpoint

    folder = numgpt.models.weights_folder() / args.name
    with bar(args) as progress:
        fetch_checkpoint(args.name, folder, progress=progress)
    print(json.dumps({"name": args.name, "path": str(folder)}) if args.json else folder)


def convert(args: argparse.Namespace) -> None:
    """numgpt convert: write any checkpoint as a folder that Transformers loads."""
    from numgpt.convert import convert as convert_checkpoint

    with bar(args) as progress:
        source = numgpt.models.locate(args.source, progress)
    folder = convert_checkpoint(source, args.folder)
    print(json.dumps({"path": str(folder)}) if args.json else folder)


def verify(args: argparse.Namespace) -> None:
    """numgpt verify --published: compare a checkpoint's answers with those published of the real models."""
    from numgpt.published import check_published, published_name, read_published

    model = load_model(args)
    name = args.published_as or published_name(args.model, model.config)
    goldens = [golden for golden in read_published() if golden["model"] == name]
    results = []
    for result in check_published(model.params, model.config, goldens):
        results.append(result)
        if not args.json:
            verdict = {True: "pass", False: "FAIL", None: "not run"}[result.passed]
            print(f"{verdict:<8} {result.id:<20} {result.source}", flush=True)
            if result.note:
                print(f"{'':<8} {'':<20} {result.note}")
            if result.passed is False:
                print(f"{'':<8} expected {show(result.expected, model)}")
                print(f"{'':<8} got      {show(result.got, model)}")
    passed, failed = [sum(result.passed is verdict for result in results) for verdict in (True, False)]
    if args.json:
        print(json.dumps({"model": name, "results": [result._asdict() for result in results]}))
    else:
        print(f"\n{name}: {passed} passed, {failed} failed, {len(results) - passed - failed} not run")
    if failed:
        raise CheckpointError(f"{args.model}: {failed} of {len(results)} published outputs of {name} are not met")


def show(value: Any, model: numgpt.models.Model) -> str:
    """Return a value of a published output as people read it: ids as their text."""
    if model.tokenizer and isinstance(value, list) and all(isinstance(i, int) for i in value):
        return repr(model.tokenizer.decode(value))
    return str(value)


def bench(args: argparse.Namespace) -> None:
    """numgpt bench: measure a model on this machine, beside what the machine could do at best."""
    from numgpt.bench import measure, table

    with bar(args) as progress:
        path = numgpt.models.locate(args.model, progress)
    note(args, "measuring: some 10 seconds for the storyteller, a minute for 124M parameters")
    report = {"model": str(args.model), **measure(path)}
    print(json.dumps(report) if args.json else table(report))


def list_models(args: argparse.Namespace) -> None:
    """numgpt models: show the checkpoints that are known by name or lie in the folder of checkpoints."""
    rows: list[dict[str, Any]] = []
    for name in numgpt.models.list_names():
        known = numgpt.models.KNOWN.get(name)
        path = numgpt.models.find_named(name)
        size = folder_bytes(path) if path else known and known.file_bytes
        rows.append({"name": name, "path": path and str(path), "bytes": size, "about": known.about if known else ""})
    if args.json:
        print(json.dumps({"folder": str(numgpt.models.weights_folder()), "models": rows}))
        return
    for row in rows:
        where = row["path"] or "not here"
        print(f"  {row['name']:<16} {format_bytes(row['bytes']):>8}  {row['about']:<43}  {where}")
    print(f"\nfolder of checkpoints: {numgpt.models.weights_folder()}")


def folder_bytes(path: Path) -> int:
    """Return how many bytes a checkpoint, a folder or a file, weighs."""
    return sum(f.stat().st_size for f in path.iterdir() if f.is_file()) if path.is_dir() else path.stat().st_size


def load_model(args: argparse.Namespace) -> numgpt.models.Model:
    """Load the model that -m names; if it has to be fetched first, show how that gets on."""
    with bar(args) as progress:
        return numgpt.models.load(args.model, dtype=args.dtype, progress=progress)


@contextmanager
def bar(args: argparse.Namespace) -> Iterator[Any]:
    """Give a progress bar on standard error to a download, or None with -q."""
    from numgpt.progress import Bar

    progress = None if args.quiet or sys.stderr is None else Bar()
    try:
        yield progress
    finally:
        if progress:
            progress.close()


def require(tokenizer: Tokenizer | None, model: str) -> Tokenizer:
    """Return the tokenizer, for a command that can't do without."""
    if tokenizer is None:
        raise CheckpointError(
            f"{model} has no tokenizer of GPT-2's kind (vocab.json and merges.txt, or tokenizer.json), "
            f"which text needs: put its files beside the weights, or work with ids from Python"
        )
    return tokenizer


def read_text(argument: str) -> str:
    """Return the text that an argument stands for: itself, or for "-" what standard input holds."""
    if argument != "-":
        return reread_as_utf8(argument)
    if sys.stdin is None:
        raise TokenError("standard input is closed: give the text itself, or a file by < FILE")
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenError(
            f"standard input: byte {raw[error.start]:#04x} at {error.start} is not UTF-8: convert it"
        ) from None


def reread_as_utf8(argument: str) -> str:
    """Return an argument whose bytes the locale could not decode as the UTF-8 that it nearly always is."""
    try:
        argument.encode("utf-8")
        return argument
    except UnicodeEncodeError:  # it holds the surrogates that stand for undecodable bytes
        return os.fsencode(argument).decode("utf-8", "backslashreplace")


def note(args: argparse.Namespace, message: str) -> None:
    """Say something about the work on standard error, unless -q asks for silence."""
    if not args.quiet:
        say(f"numgpt: {message}")


def say(message: str) -> None:
    """Print a line on standard error, if there is one: what can't be said must not spoil the text."""
    if sys.stderr:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def discard_output() -> None:
    """Send what is left of standard output nowhere, or Python would fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: object) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    say(f"numgpt: error: {error}".replace("\n", " "))
    return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="numgpt",
        allow_abbrev=False,
        description="GPT-2 in NumPy: text from a checkpoint on a CPU.",
        epilog=EXAMPLES["numgpt"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"numgpt {numgpt.__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            allow_abbrev=False,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON, for programs")
        sub.add_argument("-q", "--quiet", action="store_true", help="print nothing on standard error but errors")
        if name not in ("models", "download", "convert"):
            about_model = "a name, a folder or a file (default: storyteller)"
            sub.add_argument("-m", "--model", default="storyteller", help=about_model)
        return sub

    sub = command("generate", generate, "continue a text")
    sub.add_argument(
        "prompt", nargs="?", default="", help="the text to continue; - reads standard input, less a last newline"
    )
    add = sub.add_argument
    add("-n", "--max-new-tokens", type=int, default=200, metavar="N", help="the most tokens to make (default: 200)")
    add("--temperature", type=float, metavar="T", help="0 is greedy (default: 0.8)")
    add("--top-k", type=int, metavar="K", help="keep the K likeliest tokens; 0 for all (default: 40)")
    add("--top-p", type=float, metavar="P", help="keep the fewest tokens that reach this probability together")
    add("--min-p", type=float, metavar="P", help="keep the tokens at least P times as likely as the likeliest")
    add("--repetition-penalty", type=float, metavar="R", help="above 1: avoid tokens already there")
    add("--no-repeat-ngram-size", type=int, metavar="N", help="let no N tokens in a row come twice")
    add(
        "--bad-words", action="append", default=[], metavar="TEXT", help="ban a text; ' king' is not 'king'; repeatable"
    )
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
    add("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the prompt as the token, not as text")

    sub = command("tokenize", tokenize, "show the ids and pieces of a text")
    sub.add_argument("text", help="the text; - reads standard input")
    sub.add_argument("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")

    sub = command("score", score, "show how well the model predicts a text: log-probabilities and perplexity")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", help="the text; - reads standard input")
    source.add_argument("--file", metavar="FILE", help="read the text from a file")
    source.add_argument("--lambada", metavar="FILE", help='predict last words instead: lines of JSON, {"text": ...}')
    add = sub.add_argument
    add("--context", type=int, metavar="N", help="tokens of a window (default: all that the model can see)")
    add("--stride", type=int, metavar="N", help="tokens from one window to the next (default: half the context)")
    add("--bos", action="store_true", help="put the end-of-text token before, so that the first token is scored")
    add("--color", choices=["auto", "always", "never"], default="auto", help="colour the text (default: on a terminal)")
    add("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")

    sub = command("inspect", inspect, "show the config, tensors and health of a checkpoint")
    sub.add_argument("--check", action="store_true", help="compare each tensor with its checksum (TensorFlow's files)")

    sub = command("download", download, "fetch a checkpoint and verify it")
    sub.add_argument("name", help="a known name, an id of the Hugging Face Hub, or OpenAI's 124M, 355M, 774M, 1558M")

    sub = command("convert", convert, "write any checkpoint as a folder that Transformers loads")
    sub.add_argument("source", help="a name, a folder or a file")
    sub.add_argument("folder", help="the folder to write, which must not be there yet")

    sub = command("verify", verify, "compare a checkpoint's answers with those published of the real models")
    sub.add_argument("--published", action="store_true", required=True, help="compare with published outputs")
    sub.add_argument(
        "--as", dest="published_as", metavar="NAME", help="whose outputs (default: told from name or size)"
    )
    sub.add_argument("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")

    command("bench", bench, "measure the speed of a model, beside what this machine could do at best")

    command("models", list_models, "list the checkpoints that are known by name, and where they are")
    return top
