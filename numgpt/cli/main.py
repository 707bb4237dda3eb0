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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numgpt
from numgpt.cli.progress import LineBar, format_bytes
from numgpt.errors import CheckpointError, NumgptError, OptionError, TokenError
from numgpt.tokenizer import Tokenizer

OPTIONS = (  # of `numgpt generate`, by the names that they have in Python; those that are not given keep their defaults
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("min_new_tokens", "overflow", "num_beams", "length_penalty", "early_stopping"),
)
FIGURES = ("min", "max", "mean", "std")  # of each tensor of `numgpt trace`
EXAMPLES = {
    "numgpt": """examples:
  numgpt generate "Once upon a time"
  echo "The king said" | numgpt generate - --seed 1 -n 100
  numgpt generate "Once" -m path/to/gpt2 --temperature 0 --json
  numgpt summarize article.txt -m gpt2-xl
  numgpt chat -m dialogpt-medium
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
  numgpt generate --input prompts.jsonl --output out.jsonl     a job: start it again, and it goes on
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
    "trace": """examples:
  numgpt trace "Once upon a time"                        names, shapes and ranges
  numgpt trace "Once upon a time" -o trace.safetensors --dtype float64
  numgpt trace --ids 46,1198,2402 -o trace.npz
  numgpt trace "Once upon a time" --names attn.weights "h.3.mlp.*" logits
  numgpt trace "Once upon a time" --names logits --ablate h.1.attn.z:2 --ablate h.4.mlp_out""",
    "verify": """examples:
  numgpt verify dump.npz -m path/to/gpt2                 where another implementation parts from ours, and why
  numgpt verify logits.safetensors -m gpt2 --ids 15496,995
  numgpt verify --published -m gpt2
  numgpt verify --published -m 124M --json
  numgpt verify --published -m path/to/folder --as distilgpt2""",
    "score": """examples:
  numgpt score "Once upon a time there was a king"       each token coloured by how much it surprised the model
  numgpt score --file book.txt --stride 128              by windows that overlap more: slower, with more context
  numgpt score - --bos --json < text.txt                 log-probabilities, from the first token on
  numgpt score "The king" --color always | less -R
  numgpt score --input texts.jsonl --output out.jsonl    a job: start it again, and it goes on
  numgpt score --lambada lambada_test.jsonl -m gpt2      how many last words are predicted""",
    "summarize": """examples:
  numgpt summarize article.txt -m gpt2-xl
  cat article.txt | numgpt summarize - --seed 1 --json   the prompts too

The prompt is that of the GPT-2 paper: the article, then "TL;DR:". The model goes on by 100 tokens, drawn with top-k,
k = 2, and their first three sentences are the summary. What is too long for the context is summarized in parts.
gpt2-xl does it best. It looks to the end of an article most, and mixes up details; in the paper, three sentences of the
article picked at random score nearly as well. The storyteller only knows how to tell tales.""",
    "translate": """examples:
  numgpt translate letter.txt --from fr --to en -m gpt2-xl
  echo "The house is old." | numgpt translate -m gpt2-xl
  numgpt translate text.txt --from en --to de --pairs pairs.txt

The prompt is that of the GPT-2 paper: example pairs, "english sentence = french sentence", then "english sentence =".
Decoding is greedy, and the first sentence of what follows is the translation. In a file of pairs each line is
"sentence = translation". gpt2-xl does it best, and that is not well: in the paper 11.5 BLEU from French to English, and
5 from English to French, less than word by word with a dictionary. The storyteller knows no French.""",
    "chat": """examples:
  numgpt chat -m dialogpt-medium
  numgpt chat --seed 1 --temperature 0.6
  numgpt chat --json < turns.txt                         a line of JSON for each line of text

/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops a reply: what there is of it counts.
DialoGPT was trained on dialogues, and does it best; its turns are joined by end-of-text. Any other model goes on with a
transcript of User and Friend. None of them knows facts for sure, follows instructions or remembers what has left its
context. When that is full, the oldest turns are dropped until half of it is free.""",
    "bench": """examples:
  numgpt bench
  numgpt bench -m path/to/gpt2 --json""",
    "train": """examples:
  numgpt train story.txt out                             a small model of the text, byte by byte
  numgpt train sums.txt adder --answers-after "="        lines like 3+4=7: what counts is the answer
  numgpt train story.txt out --tokenizer gpt2 --n-layer 6 --n-head 6 --n-embd 384
  numgpt train story.txt tuned --from storyteller --learning-rate 1e-4
  numgpt train story.txt out                             the same again: goes on where it was stopped
  numgpt generate "Once" -m out
  OPENBLAS_NUM_THREADS=2 numgpt train story.txt out      pays from a width of some 256 on, if both are idle""",
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
        if args.kind == "train":  # small matrices, for which threads of BLAS wait longer than they work
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    from numgpt.decoding.batch import complete_batch
    from numgpt.decoding.rules import random_seed
    from numgpt.decoding.text import start_ids, stream_ids, text_of

    check_job(args, given=args.prompt is not None)
    model = load_model(args)
    tokenizer = require(model.tokenizer, args.model)
    if args.input is not None:
        job(args, model, generate_options(args, tokenizer))
        return
    prompt = read_text(args.prompt or "")
    if args.prompt == "-":
        prompt = prompt.removesuffix("\n")  # the end of the last line, which is not meant
    ids = start_ids(model, tokenizer.encode(prompt, allow_special=args.allow_special))
    seed = random_seed() if args.seed is None else args.seed
    options = {**generate_options(args, tokenizer), "seed": seed}
    count, start = 0, time.perf_counter()

    def show(text: str) -> None:
        if not args.json:
            print(text, end="", flush=True)

    def end(text: str, new_ids: list[int], finish_reason: str) -> None:
        """Finish what is shown of a text; with --json, show all of it."""
        nonlocal count
        count += len(new_ids)
        if args.json:
            result = {"prompt": prompt, "text": text, "ids": new_ids, "finish_reason": finish_reason, "seed": seed}
            print(json.dumps({"model": str(args.model), **result}))
        elif not (prompt + text).endswith("\n"):
            print(flush=True)
        if finish_reason == "context":
            note(args, f"stopped at the context limit of {model.config.n_ctx} tokens (--overflow slide goes on)")

    several = args.num_return_sequences != 1
    if several:
        more = {"num_return_sequences": args.num_return_sequences, "tokenizer": tokenizer}
        batch = complete_batch([ids], model.params, model.config, **options, **more)
    else:
        pieces = stream_ids(model, ids, **options)
    if args.seed is None and options.get("temperature"):
        note(args, f"seed {seed}")
    try:
        if several:
            for number, new_ids, finish_reason in sorted(batch):
                text = text_of(new_ids, tokenizer, options["stop_strings"])
                show("\n" * (number > 0) + prompt + text)
                end(text, new_ids, finish_reason)
        else:
            show(prompt)
            text = ""
            for piece in pieces:
                show(piece)
                text += piece
            end(text, pieces.ids, pieces.finish_reason)
    except NumgptError:
        show("\n")  # so that the error has a line of its own
        raise
    seconds = time.perf_counter() - start
    n_ctx, half = model.config.n_ctx, model.config.n_ctx // 2
    if args.overflow == "slide" and len(ids) + count > n_ctx:
        note(args, f"went on past the {n_ctx} tokens of the context: each time the last {half} of them, computed anew")
    tokens = f"{count} token{'' if count == 1 else 's'}"
    note(args, f"{tokens} in {seconds:.2f} s, {count / seconds:.1f} tokens/s")


def generate_options(args: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the options of `generate` that the command line gives, in values of JSON, without a seed."""
    options: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.num_beams == 1:  # a search draws nothing
        options = {"temperature": 0.8, "top_k": 40, **options}
    options["stop_strings"] = [reread_as_utf8(stop) for stop in args.stop]
    options["bad_words"] = [tokenizer.encode(reread_as_utf8(text)) for text in args.bad_words] or None
    options["logit_bias"] = list(dict(parse_bias(text, tokenizer) for text in args.logit_bias).items()) or None
    return options


def check_job(args: argparse.Namespace, given: bool) -> None:
    """Exit with a word on the usage where the options of a job don't go together."""
    if args.input is None:
        for name in ("output", "batch_size", "dask"):
            if getattr(args, name) is not None:
                args.error(f"--{name.replace('_', '-')} is for jobs: give --input too")
        return
    if given:
        args.error("give a text or --input, not both")
    if args.output is None:
        args.error("--input needs --output")
    if args.input == "-" or args.output == "-":
        args.error("--input and --output are files, not -: a job that is started again reads both")
    if getattr(args, "num_return_sequences", 1) != 1:
        args.error("--input makes one text of each line: for more, give the line several times; each has its own draw")


def job(args: argparse.Namespace, model: numgpt.Model, options: dict[str, Any]) -> None:
    """numgpt generate or score with --input: do what is left of a job, and say how that gets on."""
    from numgpt.apps.jobs import Job, fingerprint, run_job

    if args.kind == "generate":
        options = {**options, "seed": args.seed or 0}  # one that is drawn would be lost when the job is killed
    work = Job(args.kind, {**options, "allow_special": args.allow_special})
    size = 8 if args.batch_size is None else args.batch_size
    workers = None
    if args.dask is not None:
        from numgpt.apps.dask import work_on_cluster

        name = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
        expected = fingerprint(model)

        def workers(lines: Any) -> Any:
            return work_on_cluster(args.dask, work, name, args.dtype, expected, size, lines)

    bar = None if args.quiet or sys.stderr is None else LineBar()

    def report(number: int, reason: str) -> None:
        message = f"numgpt: {args.input}: line {number}: {reason}".replace("\n", " ")
        (bar.say if bar else say)(message)

    def progress(done: int, lines: int, tokens: int) -> None:
        if bar:
            bar.tokens = tokens
            bar(args.output, done, lines)

    start = time.perf_counter()
    try:
        summary = run_job(
            work,
            model,
            Path(args.input),
            Path(args.output),
            batch_size=size,
            workers=workers,
            report=report,
            progress=progress,
        )
    except KeyboardInterrupt:
        note(args, "stopped: what is done is kept, and the same command goes on")
        raise
    finally:
        if bar:
            bar.close()
    seconds = time.perf_counter() - start
    lines, before, made, bad, tokens = summary
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, **summary._asdict()}))
    rate = f"{made / seconds:.1f} lines/s, {tokens / seconds:.1f} tokens/s"
    note(args, f"{made} of {lines} lines in {seconds:.2f} s, {rate}; {before} were done before")
    if bad:
        raise TokenError(f"{args.input}: {bad} of {lines} lines have no result; see above")


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
    tokenizer = require(import_module("numgpt.hub.loading").load_tokenizer(args.model), args.model)
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
    from numgpt.measure import scoring

    check_job(args, given=False)  # which the parser has seen
    options = args.context, args.stride, args.bos, args.allow_special
    if args.lambada is not None and options != (None, None, False, False):
        raise OptionError("--lambada takes each text by itself: leave out --context, --stride, --bos, --allow-special")
    model = load_model(args)
    tokenizer = require(model.tokenizer, args.model)
    if args.input is not None:
        job(args, model, {"context": args.context, "stride": args.stride, "bos": args.bos})
        return
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
        text = read_text(args.text) if args.file is None else decoded(args.file)
        ids = tokenizer.encode(text, allow_special=args.allow_special)
        found = scoring.score(model, ids, context=args.context, stride=args.stride, bos=args.bos)
        pieces, facts = tokenizer.pieces(ids), found._asdict()
        facts["log_probs"] = [finite(x) for x in found.log_probs]
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
        summary = summarize_part(model, part, seed, stream=number)
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
        for found in translations_of(model, line, pairs):
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


def chat(args: argparse.Namespace) -> None:
    """numgpt chat: answer line after line, until the end of standard input or /quit."""
    from numgpt.apps.chat import Chat, dialogue, knows_dialogue, transcript

    model = load_model(args)
    require(model.tokenizer, args.model)
    path = import_module("numgpt.hub.loading").locate(args.model)
    is_dialogue = knows_dialogue(args.model, path if path.is_dir() else path.parent)
    kind = args.format or ("dialogue" if is_dialogue else "transcript")
    seed = chosen_seed(args)
    options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "seed": seed}
    form = {"dialogue": dialogue, "transcript": transcript}[kind](model)
    conversation = Chat(model, form, options, args.max_new_tokens)
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if on_terminal:
        note(args, f"a {kind}; /reset forgets it, /quit or Ctrl-D ends it, Ctrl-C stops a reply")
    for line in read_lines("" if args.json else "> "):
        try:
            if line == "/quit":
                return
            if line == "/reset":
                conversation.reset()
                note(args, "the conversation is forgotten")
            elif line.startswith("/"):
                raise OptionError(f"{line!r:.40} is none of the commands, /reset and /quit")
            elif line:
                answer(args, conversation, line, on_terminal)
        except NumgptError as error:  # which is no reason to end the chat
            fail(error)
            if args.json:
                print(json.dumps({"message": line, "error": str(error)}), flush=True)


def answer(args: argparse.Namespace, conversation: Any, message: str, on_terminal: bool) -> None:
    """Show the reply to a message, piece by piece. On a terminal Ctrl-C ends the reply, and not the chat."""
    try:
        message.encode()
    except UnicodeEncodeError:
        raise TokenError("that line is not UTF-8: convert it") from None
    before = len(conversation.turns)
    pieces = conversation.reply(message)
    dropped = before - len(conversation.turns)
    if dropped:
        turns = "turn is" if dropped == 1 else f"{dropped} turns are"
        note(args, f"the context is full: the oldest {turns} forgotten")
    reply = ""
    try:
        for piece in pieces:
            reply += piece
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pieces.close()
        if not on_terminal:
            raise
    if not args.json:
        print(flush=True)
        return
    turn, ids = conversation.turns[-1], conversation.ids()
    prompt = conversation.model.tokenizer.decode(ids[: len(ids) - len(turn.reply) - len(conversation.format.end)])
    row = {"message": message, "reply": reply, "ids": turn.reply, "finish_reason": turn.finish_reason}
    print(json.dumps({**row, "dropped": dropped, "tokens": len(ids), "prompt": prompt}), flush=True)


def read_lines(prompt: str) -> Iterator[str]:
    """Yield the lines of standard input, without white space around them; on a terminal they can be edited."""
    if sys.stdin is None:
        raise TokenError("standard input is closed: the chat reads what to answer from it")
    on_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=None if on_terminal else "utf-8", errors="surrogateescape")
    if not on_terminal:
        yield from map(str.strip, sys.stdin)
        return
    with suppress(ImportError):  # Windows has none, and its console edits lines by itself
        import readline  # noqa: F401  (input uses it: arrows and history)
    while True:
        try:
            yield input(prompt).strip()
        except EOFError:
            print(flush=True)
            return


def inspect(args: argparse.Namespace) -> None:
    """numgpt inspect: show what a checkpoint holds, and whether it is sound."""
    import numpy as np

    from numgpt.checkpoint.names import match_params
    from numgpt.params import count_params

    with bar(args) as progress:
        checkpoint = open_named(args.model, progress)
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


def open_named(name: str, progress: Any) -> Any:
    """Open a checkpoint that a command names."""
    path = import_module("numgpt.hub.loading").locate(name, progress)
    return import_module("numgpt.checkpoint.reading").open_checkpoint(path)


def check(checkpoint: Any) -> None:
    """Compare the bytes of each tensor with the checksum that its file has of them."""
    if checkpoint.check is None:
        raise CheckpointError(
            f"{checkpoint.weights}: a {checkpoint.kind} file has no checksums, so --check is for others"
        )
    damaged = [name for name, sound in checkpoint.check() if not sound]
    if damaged:
        raise CheckpointError(f"{checkpoint.weights}: damaged: {', '.join(damaged)}: download it again")
    say(f"numgpt: the checksums of all {len(checkpoint.tensors)} tensors are right")


def download(args: argparse.Namespace) -> None:
    """numgpt download: fetch a checkpoint that is known by name or lies on the Hugging Face Hub."""
    from numgpt.hub.download import download as fetch_checkpoint

    folder = import_module("numgpt.hub.folders").weights_folder() / args.name
    with bar(args) as progress:
        fetch_checkpoint(args.name, folder, progress=progress)
    print(json.dumps({"name": args.name, "path": str(folder)}) if args.json else folder)


def convert(args: argparse.Namespace) -> None:
    """numgpt convert: write any checkpoint as a folder that Transformers loads."""
    from numgpt.checkpoint.export import convert as convert_checkpoint

    with bar(args) as progress:
        source = import_module("numgpt.hub.loading").locate(args.source, progress)
    folder = convert_checkpoint(source, args.folder)
    print(json.dumps({"path": str(folder)}) if args.json else folder)


def trace(args: argparse.Namespace) -> None:
    """numgpt trace: show every named intermediate of a run, or write them to a file."""
    from numgpt.checkpoint.settings import config_to_json
    from numgpt.trace import ablations, collect, summarise
    from numgpt.verify.dump import check_suffix, hash_files, write_trace

    if (args.text is None) == (args.ids is None):
        args.error("give a text or --ids, one of them")
    if args.output is not None:
        check_suffix(Path(args.output))
    model = load_model(args)
    text = None if args.text is None else read_text(args.text)
    ids = parse_ids(args.ids) if text is None else encode(args, model, text)
    tensors = collect(ids, model, names=args.names, replace=ablations(args.ablate, model.config))
    rows = summarise(tensors)
    if args.output is not None:
        with bar(args) as progress:
            checkpoint = open_named(args.model, progress)
        metadata = {
            "numgpt": numgpt.__version__,
            "ids": json.dumps(ids),
            "text": text,
            "config": json.dumps(config_to_json(model.config)),
            "sha256": json.dumps(hash_files(checkpoint.weights)),
            "dtype": rows[0]["dtype"],
            "ablations": json.dumps(args.ablate),
        }
        write_trace(args.output, tensors, {key: value for key, value in metadata.items() if value is not None})
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, "ids": ids, "tensors": rows}))
    elif args.output is not None:
        note(args, f"{len(tensors)} tensors of {len(ids)} positions in {args.output}")
    else:
        print(f"  {'tensor':<18} {'shape':<16} {'min':>10} {'max':>10} {'mean':>10} {'std':>10}")
        for row in rows:
            figures = " ".join(f"{'-' if row[x] is None else format(row[x], '.4g'):>10}" for x in FIGURES)
            flaw = f"   {row['non_finite']} masked or not finite" if row["non_finite"] else ""
            print(f"  {row['name']:<18} {' x '.join(map(str, row['shape'])):<16} {figures}{flaw}")


def parse_ids(text: str) -> list[int]:
    """Return the ids of "1,2,3"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--ids is {text!r:.80}, expected numbers with commas between, as in 46,1198,2402") from None


def encode(args: argparse.Namespace, model: numgpt.Model, text: str) -> list[int]:
    """Return the ids of a text, for a command that has --allow-special."""
    return require(model.tokenizer, args.model).encode(text, allow_special=args.allow_special)


def verify(args: argparse.Namespace) -> None:
    """numgpt verify: compare a dump of another implementation, or a checkpoint with what is published of it."""
    if (args.dump is None) != args.published:
        args.error("give a dump or --published, one of them")
    if args.published:
        if args.text is not None or args.ids is not None:
            args.error("--text and --ids are of a dump, and --published has its own")
        verify_published(args)
        return
    if args.published_as is not None:
        args.error("--as goes with --published")
    if args.text is not None and args.ids is not None:
        args.error("give --text or --ids, not both")
    verify_dump(args)


def verify_dump(args: argparse.Namespace) -> None:
    """numgpt verify DUMP: show where another implementation first parts from this one, and why."""
    from numgpt.verify.dump import read_dump
    from numgpt.verify.report import compare

    dump = read_dump(args.dump)
    model = load_model(args)
    ids = None if args.ids is None else parse_ids(args.ids)
    if args.text is not None:
        ids = encode(args, model, read_text(args.text))
    report = compare(dump, model, ids)
    last = report.rows[-1]
    if args.json:
        rows = [{key: finite(x) for key, x in row._asdict().items()} for row in report.rows]
        facts = {"model": str(args.model), "dump": args.dump, "passed": report.passed}
        print(json.dumps({**facts, **report._asdict(), "rows": rows}))
    else:
        show_report(report)
    if not report.passed:
        cause = report.causes[0] if report.causes else "no known cause fits"
        raise CheckpointError(f"{args.dump}: {last.name} differs, {last.times:.3g} times the noise: {cause}")


def finite(x: Any) -> Any:
    """Return a value of JSON, which has no infinities: None stands for them."""
    return None if isinstance(x, float) and not math.isfinite(x) else x


def show_report(report: numgpt.verify.Report) -> None:
    """Print the tensors that were compared, and what was found."""
    from numgpt.verify.report import WIDEN

    print(f"  {'tensor':<18} {'max abs':>9} {'max rel':>9} {'noise':>9} {'times':>9}  verdict")
    for row in report.rows:
        figures = " ".join(f"{x:9.2g}" for x in (row.max_abs, row.max_rel, row.noise, row.times))
        print(f"  {row.name:<18} {figures}  {'ok' if row.passed else 'DIFFERS'}")
    print(f"\n  noise: what rounding to {report.precision} does; {WIDEN:g} times that may be another order of sums")
    if report.left:
        print(f"  {report.left} tensors behind it are not compared any more")
    for why in dict.fromkeys(report.not_compared.values()):
        names = [name for name, reason in report.not_compared.items() if reason == why]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        print(f"  not compared: {', '.join(names[:8])}{more}: {why}")
    for cause in report.causes:
        print(f"  likely cause: {cause}")
    if report.pattern:
        print("  no known cause fits; the difference looks like this:")
    for line in report.pattern:
        print(f"    {line}")


def verify_published(args: argparse.Namespace) -> None:
    """numgpt verify --published: compare a checkpoint's answers with those published of the real models."""
    from numgpt.verify.published import check_published, published_name, read_published

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


def show(value: Any, model: numgpt.Model) -> str:
    """Return a value of a published output as people read it: ids as their text."""
    if model.tokenizer and isinstance(value, list) and all(isinstance(i, int) for i in value):
        return repr(model.tokenizer.decode(value))
    return str(value)


def bench(args: argparse.Namespace) -> None:
    """numgpt bench: measure a model on this machine, beside what the machine could do at best."""
    from numgpt.cli.figures import notes, table
    from numgpt.measure.bench import measure
    from numgpt.measure.machine import load_average

    with bar(args) as progress:
        path = import_module("numgpt.hub.loading").locate(args.model, progress)
    note(args, "measuring: some 10 seconds for the storyteller, a minute for 124M parameters")
    busy = load_average()
    report = {"model": str(args.model), **measure(path)}
    report["notes"] = notes(report["weight_bytes"], busy)
    print(json.dumps(report) if args.json else table(report))


class StepBar(LineBar):
    """The same for the steps of training: set `figures` and `tokens` before each call."""

    figures = ""

    def _amount(self, count: int) -> str:
        return f"{count:,} steps"

    def _speed(self, rate: float, seconds: float) -> str:
        return f"{self.figures}, {rate:.1f} steps/s, {self.tokens / seconds:.0f} tokens/s"


def train(args: argparse.Namespace) -> None:
    """numgpt train: train a model on a text, or go on with a run that was stopped."""
    from numgpt.training import run as training

    given = {name: getattr(args, name) for name in training.Settings._fields}
    settings = {name: value for name, value in given.items() if value is not None}
    steps = settings.get("steps", training.Settings().steps)
    if args.start and not Path(args.folder).exists():
        with bar(args) as progress:
            import_module("numgpt.hub.loading").locate(args.start, progress)
    shown = None if args.quiet or sys.stderr is None else StepBar()
    done: training.Progress | None = None
    val = ""

    def report(progress: training.Progress) -> None:
        nonlocal done, val
        done = progress
        if args.json:
            print(json.dumps(progress._asdict()), flush=True)
        if progress.val_loss is not None:
            val = f", val loss {progress.val_loss:.4f}"
            if progress.exact_match is not None:
                val += f", {progress.exact_match:.2%} of held-out answers right"
        if shown:
            shown.figures, shown.tokens = f"loss {progress.loss:.4f}{val}", progress.tokens
            if progress.val_loss is not None:
                shown.say(f"numgpt: step {progress.step}: {shown.figures}")
            shown(args.folder, progress.step, steps)

    try:
        training.train(
            args.file, args.folder, val_file=args.val, eval_interval=args.eval_interval, report=report, **settings
        )
    except KeyboardInterrupt:
        note(args, f"stopped{f' after step {done.step}, which is kept' if done else ''}: the same command goes on")
        raise
    finally:
        if shown:
            shown.close()
    if done is None:
        note(args, f"all {steps} steps were done before")
    if not args.json:
        print(args.folder)


def list_models(args: argparse.Namespace) -> None:
    """numgpt models: show the checkpoints that are known by name or lie in the folder of checkpoints."""
    rows: list[dict[str, Any]] = []
    for name in import_module("numgpt.hub.folders").list_names():
        known = import_module("numgpt.hub.registry").KNOWN.get(name)
        path = import_module("numgpt.hub.folders").find_named(name)
        size = folder_bytes(path) if path else known and known.file_bytes
        rows.append({"name": name, "path": path and str(path), "bytes": size, "about": known.about if known else ""})
    if args.json:
        print(json.dumps({"folder": str(import_module("numgpt.hub.folders").weights_folder()), "models": rows}))
        return
    for row in rows:
        where = row["path"] or "not here"
        print(f"  {row['name']:<16} {format_bytes(row['bytes']):>8}  {row['about']:<43}  {where}")
    print(f"\nfolder of checkpoints: {import_module('numgpt.hub.folders').weights_folder()}")


def folder_bytes(path: Path) -> int:
    """Return how many bytes a checkpoint, a folder or a file, weighs."""
    return sum(f.stat().st_size for f in path.iterdir() if f.is_file()) if path.is_dir() else path.stat().st_size


def load_model(args: argparse.Namespace) -> numgpt.Model:
    """Load the model that -m names; if it has to be fetched first, show how that gets on."""
    with bar(args) as progress:
        return import_module("numgpt.hub.loading").load(args.model, dtype=args.dtype, progress=progress)


@contextmanager
def bar(args: argparse.Namespace) -> Iterator[Any]:
    """Give a progress bar on standard error to a download, or None with -q."""
    from numgpt.cli.progress import Bar

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


def decoded(path: str) -> str:
    """Return the text of a file as it stands."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenError(f"{path}: byte at {error.start} is not UTF-8: convert it") from None


def read_file(path: str) -> str:
    """Return the text of a file, or for "-" of standard input; the ends of its lines are those of Unix."""
    text = read_text(path) if path == "-" else decoded(path)
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def chosen_seed(args: argparse.Namespace) -> int:
    """Return the seed that was asked for, or draw one and tell which it is."""
    from numgpt.decoding.rules import random_seed

    if args.seed is not None:
        return int(args.seed)
    seed = random_seed()
    note(args, f"seed {seed}")
    return seed


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
        sub.set_defaults(run=run, kind=name, error=sub.error)
        sub.add_argument("--json", action="store_true", help="print JSON, for programs")
        sub.add_argument("-q", "--quiet", action="store_true", help="print nothing on standard error but errors")
        if name not in ("models", "download", "convert", "train"):
            about_model = "a name, a folder or a file (default: storyteller)"
            sub.add_argument("-m", "--model", default="storyteller", help=about_model)
        return sub

    def job_options(sub: argparse.ArgumentParser) -> None:
        add = sub.add_argument_group("jobs, which go on where they were when they are started again").add_argument
        add("--output", metavar="FILE", help="the results of --input: a line of JSON for each")
        add("--batch-size", type=int, metavar="N", help="texts at once, or in a task of Dask (default: 8)")
        add("--dask", metavar="ADDRESS", help="work on a Dask cluster: the address of its scheduler, tcp://HOST:PORT")

    sub = command("generate", generate, "continue a text")
    sub.add_argument("prompt", nargs="?", help="the text to continue; - reads standard input, less a last newline")
    sub.add_argument("--input", metavar="FILE", help='continue each of many: lines of JSON, {"prompt": ...}')
    job_options(sub)
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
    source.add_argument("--input", metavar="FILE", help='score each of many texts: lines of JSON, {"text": ...}')
    job_options(sub)
    source.add_argument("--lambada", metavar="FILE", help='predict last words instead: lines of JSON, {"text": ...}')
    add = sub.add_argument
    add("--context", type=int, metavar="N", help="tokens of a window (default: all that the model can see)")
    add("--stride", type=int, metavar="N", help="tokens from one window to the next (default: half the context)")
    add("--bos", action="store_true", help="put the end-of-text token before, so that the first token is scored")
    add("--color", choices=["auto", "always", "never"], default="auto", help="colour the text (default: on a terminal)")
    add("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")

    about_seed = "the same seed makes the same text (default: another each time)"

    sub = command("summarize", summarize, "summarize a text, as the GPT-2 paper does: TL;DR")
    sub.add_argument("file", metavar="FILE", help="the file to read; - reads standard input")
    sub.add_argument("--seed", type=int, metavar="N", help=about_seed)
    sub.set_defaults(dtype=None)

    sub = command("translate", translate, "translate a text, as the GPT-2 paper does: by examples")
    sub.add_argument("file", metavar="FILE", nargs="?", default="-", help="the file to read (default: standard input)")
    sub.add_argument("--from", dest="source", metavar="LANGUAGE", default="en", help="of the text (default: en)")
    sub.add_argument("--to", dest="target", metavar="LANGUAGE", default="fr", help="to translate to (default: fr)")
    sub.add_argument("--pairs", metavar="FILE", help="example pairs, for other languages than en and fr or other texts")
    sub.set_defaults(dtype=None)

    sub = command("chat", chat, "talk with a model")
    add = sub.add_argument
    add("--format", choices=["dialogue", "transcript"], help="how turns are joined (default: as the model knows them)")
    add("-n", "--max-new-tokens", type=int, default=100, metavar="N", help="the most tokens of a reply (default: 100)")
    add("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (default: 0.8)")
    add("--top-k", type=int, default=40, metavar="K", help="keep the K likeliest tokens; 0 for all (default: 40)")
    add("--top-p", type=float, metavar="P", help="keep the fewest tokens that reach this probability together")
    add("--seed", type=int, metavar="N", help=about_seed)
    sub.set_defaults(dtype=None)

    sub = command("inspect", inspect, "show the config, tensors and health of a checkpoint")
    sub.add_argument("--check", action="store_true", help="compare each tensor with its checksum (TensorFlow's files)")

    sub = command("download", download, "fetch a checkpoint and verify it")
    sub.add_argument("name", help="a known name, an id of the Hugging Face Hub, or OpenAI's 124M, 355M, 774M, 1558M")

    sub = command("convert", convert, "write any checkpoint as a folder that Transformers loads")
    sub.add_argument("source", help="a name, a folder or a file")
    sub.add_argument("folder", help="the folder to write, which must not be there yet")

    sub = command("trace", trace, "show every named intermediate of a run, or write them to a file")
    sub.add_argument("text", nargs="?", help="the text; - reads standard input")
    add = sub.add_argument
    add("--ids", metavar="IDS", help="ids instead of a text: numbers with commas between")
    add("-o", "--output", metavar="FILE", help="write the tensors to FILE.safetensors or FILE.npz")
    add("--names", nargs="+", metavar="NAME", help='which: h.3.attn.z, "h.*.attn.z", or attn.z for all layers')
    about_ablate = "set a tensor to zero, or one head or feature of it: h.1.attn.z:2; repeatable"
    add("--ablate", action="append", default=[], metavar="NAME[:N]", help=about_ablate)
    add("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")

    sub = command("verify", verify, "find where another implementation parts from this one, and why")
    add = sub.add_argument
    add("dump", nargs="?", help="its intermediates: .npz, .safetensors, or a dict of tensors by torch.save")
    add("--ids", metavar="IDS", help="the ids of the dump, if it lacks them: numbers with commas between")
    add("--text", help="the same as a text; - reads standard input")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")
    add("--published", action="store_true", help="instead: compare the checkpoint's answers with those published of it")
    add("--as", dest="published_as", metavar="NAME", help="whose published answers (default: told from name or size)")
    add("--dtype", choices=["float32", "float64"], help="precision of --published (default: that of the checkpoint)")

    command("bench", bench, "measure the speed of a model, beside what this machine could do at best")

    sub = command("train", train, "train a small model on a text, or go on with a run that was stopped")
    sub.add_argument("file", help="the text, in UTF-8")
    sub.add_argument("folder", help="where the checkpoint goes: a new folder, or that of the same run, which goes on")
    add = sub.add_argument_group("the text").add_argument
    add("--val", metavar="FILE", help="measure on this text (default: on a tenth of the other, held out)")
    about_answers = "lines, each a question that ends with TEXT, and its answer, which alone counts"
    add("--answers-after", metavar="TEXT", help=about_answers)
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")
    add = sub.add_argument_group("the model").add_argument
    add("--from", dest="start", metavar="MODEL", help="start from a checkpoint: a name, a folder or a file")
    add("--tokenizer", metavar="MODEL", help="the vocabulary of a new model: gpt2 or another (default: bytes)")
    add("--n-layer", type=int, metavar="N", help="layers of a new model (default: 4)")
    add("--n-head", type=int, metavar="N", help="heads of a layer (default: 4)")
    add("--n-embd", type=int, metavar="N", help="width (default: 128)")
    about_block = "tokens of an example, and the context of a new model (default: 64, or the longest line)"
    add("--block-size", "--n-ctx", type=int, metavar="N", help=about_block)
    add("--dtype", choices=["float32", "float64"], help="precision (default: float32)")
    add = sub.add_argument_group("the steps").add_argument
    add("--steps", "--max-iters", type=int, metavar="N", help="how many (default: 2000)")
    add("--batch-size", type=int, metavar="N", help="examples of a step (default: 12)")
    add("--learning-rate", type=float, metavar="X", help="at its highest (default: 0.001)")
    add("--min-lr", type=float, metavar="X", help="at the last step (default: a tenth of --learning-rate)")
    add("--warmup-steps", "--warmup-iters", type=int, metavar="N", help="up to the highest (default: 100)")
    add("--weight-decay", type=float, metavar="X", help="of matrices (default: 0.1)")
    add("--beta1", type=float, metavar="X", help="of AdamW: how long it remembers gradients (default: 0.9)")
    add("--beta2", type=float, metavar="X", help="and their squares (default: 0.99)")
    add("--grad-clip", type=float, metavar="X", help="the longest gradient; 0 for no limit (default: 1)")
    add("--seed", type=int, metavar="N", help="of the first weights and the batches (default: 0)")
    about_interval = "evaluate, and replace the checkpoint, every N steps (default: 250)"
    add("--eval-interval", type=int, default=250, metavar="N", help=about_interval)

    command("models", list_models, "list the checkpoints that are known by name, and where they are")
    return top
