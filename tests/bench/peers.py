"""Time numgpt beside Transformers (PyTorch) and llama.cpp on the same random GPT-2 of 124M parameters in float32.

    pip install -e ".[peers,bench]"
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python tests/bench/peers.py [--json] [FIGURE ...]

Each peer is a process of its own, which loads the checkpoint once and then waits. The figures are taken in turns: all
peers once, then all once more, so that a slow phase of the machine meets each of them. What is printed is the median
of each, and the median of the ratios within a round; ratios are what counts.
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROUNDS = 5
HERE = Path(__file__).resolve()
STORYTELLER = HERE.parents[2] / "weights" / "storyteller"


def ids_of(n: int, vocabulary: int) -> list[int]:
    """n ids without a pattern, the same each time."""
    return [(7919 * i * i + 104729 * i + 1) % vocabulary for i in range(n)]


def clock(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Numgpt:
    def __init__(self, folder: Path, gguf: Path) -> None:
        import numgpt

        self.numgpt, self.model = numgpt, numgpt.load(folder)
        self.vocabulary = self.model.config.n_vocab

    def forward(self, ids: list[int], cache: Any) -> Any:
        return self.numgpt.fast.forward(ids, self.model.params, self.model.config, cache=cache, logits_to_keep=1)

    def prefill(self, n: int) -> float:
        ids, cache = ids_of(n, self.vocabulary), self.numgpt.KVCache(self.model.config)
        return clock(lambda: self.forward(ids, cache))

    def decode(self, past: int, n: int) -> float:
        cache = self.numgpt.KVCache(self.model.config)
        logits = self.forward(ids_of(past, self.vocabulary), cache)

        def steps() -> None:
            nonlocal logits
            for _ in range(n):
                logits = self.forward([int(logits[-1].argmax())], cache)

        return clock(steps)

    def batch(self, n: int, size: int) -> float:
        """Seconds for n tokens of each of 8 prompts of 5 to 200 ids, `size` prompts at a time."""
        prompts = [ids_of(length, self.vocabulary) for length in (5, 200, 30, 90, 150, 10, 60, 120)]
        options = {"max_new_tokens": n, "temperature": 0, "batch_size": size}
        return clock(lambda: self.numgpt.generate_batch(prompts, self.model.params, self.model.config, **options))

    def text(self, kind: str, n: int, lookup: bool) -> float:
        """Seconds for n tokens of a text that repeats, or does not, with prompt lookup or without."""
        from numgpt.decoding.lookup import PromptLookup

        options = {"temperature": 0} if kind == "loop" else {"temperature": 1.0, "seed": 0}
        if lookup:
            options["guess"] = PromptLookup()
        steps = self.numgpt.generate(
            ids_of(16, self.vocabulary), self.model.params, self.model.config,
            max_new_tokens=n, forward=self.numgpt.fast.forward, **options,
        )  # fmt: skip
        return clock(lambda: list(steps))


class Transformers:
    def __init__(self, folder: Path, gguf: Path) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch, self.cache = torch, transformers.DynamicCache
        torch.set_grad_enabled(False)
        self.model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype="float32").eval()
        self.vocabulary = self.model.config.vocab_size
        # The name of the cache since Transformers 5.24, or the one before.
        known = inspect.signature(self.model.forward).parameters
        self.cache_name = "cache" if "cache" in known else "past_key_values"

    def forward(self, ids: Any, cache: Any) -> Any:
        return self.model(ids, **{self.cache_name: cache}, use_cache=True, logits_to_keep=1).logits

    def prefill(self, n: int) -> float:
        ids, cache = self.torch.tensor([ids_of(n, self.vocabulary)]), self.cache(config=self.model.config)
        return clock(lambda: self.forward(ids, cache))

    def decode(self, past: int, n: int) -> float:
        cache = self.cache(config=self.model.config)
        logits = self.forward(self.torch.tensor([ids_of(past, self.vocabulary)]), cache)

        def steps() -> None:
            nonlocal logits
            for _ in range(n):
                logits = self.forward(logits[:, -1:].argmax(-1), cache)

        return clock(steps)


class LlamaCpp:
    def __init__(self, folder: Path, gguf: Path) -> None:
        import llama_cpp

        self.model = llama_cpp.Llama(
            str(gguf), n_ctx=1024, n_batch=1024, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(), verbose=False
        )
        self.vocabulary = self.model.n_vocab()

    def prefill(self, n: int) -> float:
        self.model.reset()
        return clock(lambda: self.model.eval(ids_of(n, self.vocabulary)))

    def decode(self, past: int, n: int) -> float:
        from numpy.ctypeslib import as_array

        self.model.reset()
        self.model.eval(ids_of(past, self.vocabulary))

        def steps() -> None:
            for _ in range(n):
                logits = as_array(self.model._ctx.get_logits(), shape=(self.vocabulary,))
                self.model.eval([int(logits.argmax())])

        return clock(steps)


PEERS = {"numgpt": Numgpt, "transformers": Transformers, "llama.cpp": LlamaCpp}

# What is timed: its name, the method and its arguments, and how many tokens that is.
FIGURES: dict[str, tuple[str, tuple[int, ...], int]] = {
    "decode, 32 ids of past": ("decode", (32, 128), 128),
    "decode, 900 ids of past": ("decode", (900, 64), 64),
    "prefill 128": ("prefill", (128,), 128),
    "prefill 1,024": ("prefill", (1024,), 1024),
}


def make_checkpoint(folder: Path) -> None:
    """Write a random GPT-2 of 124M parameters as Transformers does."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)


def make_gguf(folder: Path, path: Path) -> None:
    """Write the same as GGUF, in float32, without a tokenizer."""
    import gguf
    import numpy as np

    import numgpt
    from numgpt.params import leaves

    model = numgpt.load(folder)
    config = model.config
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    names = {"wte": "token_embd.weight", "wpe": "position_embd.weight"}
    parts = {
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "ln_f": "output_norm",
    }  # fmt: skip
    for leaf, array in leaves(model.params):
        if leaf in names:
            name = names[leaf]
        else:
            stem, last = leaf.rsplit(".", 1)
            block, part = stem.split(".", 2)[1:] if stem.startswith("h.") else ("", stem)
            name = f"{f'blk.{block}.' if block else ''}{parts[part]}.{'bias' if last == 'b' else 'weight'}"
        writer.add_tensor(name, np.ascontiguousarray(array.T) if leaf.endswith(".w") else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(peer: str, folder: str, gguf: str) -> None:
    """The process of a peer: load, then answer each line of JSON, a method and its arguments, with its seconds."""
    loaded = PEERS[peer](Path(folder), Path(gguf))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(json.dumps(getattr(loaded, method)(*arguments)), file=answers, flush=True)


@contextmanager
def running(folder: Path, gguf: Path, peers: list[str]) -> Iterator[dict[str, Callable[..., float]]]:
    """Start each peer, and yield for each a function that asks it to time something."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    started: dict[str, subprocess.Popen[str]] = {}

    def asker(process: subprocess.Popen[str]) -> Callable[..., float]:
        def ask(method: str, *arguments: Any) -> float:
            assert process.stdin
            assert process.stdout
            print(json.dumps([method, arguments]), file=process.stdin, flush=True)
            return float(process.stdout.readline())

        return ask

    try:
        for peer in peers:
            process = subprocess.Popen([sys.executable, HERE, "--serve", peer, str(folder), str(gguf)], **pipes)
            started[peer] = process
            if process.stdout.readline() != "ready\n":
                sys.exit(f"{peer} does not start: python {HERE} --serve {peer} {folder} {gguf}")
        yield {peer: asker(process) for peer, process in started.items()}
    finally:
        for process in started.values():
            process.kill()


MEMORY = "; print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
LOAD_AND_MAKE_ONE_TOKEN = {
    "numgpt": "import numgpt, sys; m = numgpt.load(sys.argv[1]); list(numgpt.generate([1, 2, 3], m.params, m.config, "
    "max_new_tokens=1, temperature=0, forward=numgpt.fast.forward))",
    "transformers": "import torch, transformers, sys; m = transformers.GPT2LMHeadModel.from_pretrained(sys.argv[1]); "
    "m.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=1, do_sample=False)",
}


def whole_process(peer: str, folder: Path) -> tuple[float, float]:
    """Return the seconds and the MB of memory that a process takes which loads, and makes one token."""
    command = [sys.executable, "-c", LOAD_AND_MAKE_ONE_TOKEN[peer] + MEMORY, str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="the first words of those wanted, as printed; default: all")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint and the GGUF file there, and use them again")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return

    def wanted(name: str) -> bool:
        return not args.figures or any(name.startswith(figure) for figure in args.figures)

    report: dict[str, Any] = {}

    def show(name: str, unit: str, rounds: list[dict[str, float]]) -> None:
        """Print and keep a line: the median of each column, and by how much the first beats each other one."""
        first, *others = rounds[0]
        medians = {column: statistics.median(r[column] for r in rounds) for column in rounds[0]}
        ratios = {
            other: statistics.median((r[first] / r[other]) ** (1 if unit == "tokens/s" else -1) for r in rounds)
            for other in others
        }
        report[name] = {"unit": unit, "medians": medians, f"{first} is better by": ratios}
        if not args.json:
            figures = "".join(f"{column:>14} {value:7.1f}" for column, value in medians.items())
            print(f"{name:<24} {unit:<9}{figures}   " + ", ".join(f"{ratio:.2f} x {o}" for o, ratio in ratios.items()))

    def take(name: str, tokens: int, ways: dict[str, Callable[[], float]]) -> None:
        """Time each way of making so many tokens, in turns; the first time does not count."""
        if wanted(name):
            for way in ways.values():
                way()
            show(name, "tokens/s", [{way: tokens / ways[way]() for way in ways} for _ in range(args.rounds)])

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        gguf = folder / "model.gguf"
        if not gguf.exists():
            make_checkpoint(folder)
            make_gguf(folder, gguf)
        with running(folder, gguf, list(PEERS)) as peers:
            for name, (method, arguments, tokens) in FIGURES.items():
                take(name, tokens, {peer: partial(ask, method, *arguments) for peer, ask in peers.items()})
            ask = peers["numgpt"]
            take(
                "batch of 8",
                8 * 64,
                {"together": partial(ask, "batch", 128, 8), "one by one": partial(ask, "batch", 128, 1)},
            )
            for kind, name in ("loop", "text that repeats"), ("free", "text that does not"):
                ways = {
                    "lookup": partial(ask, "text", kind, 200, True),
                    "plain": partial(ask, "text", kind, 200, False),
                }
                take(name, 200, ways)
        with running(STORYTELLER, gguf, ["numgpt", "transformers"]) as peers:
            take("storyteller, decode", 200, {peer: partial(ask, "decode", 32, 200) for peer, ask in peers.items()})
        if wanted("process"):
            rounds = []
            for n in range(1 + args.rounds):
                figures = {peer: whole_process(peer, folder) for peer in LOAD_AND_MAKE_ONE_TOKEN}
                rounds += [figures] if n else []
            show("process: load, 1 token", "s", [{p: seconds for p, (seconds, _) in r.items()} for r in rounds])
            show("process: peak memory", "MB", [{p: megabytes for p, (_, megabytes) in r.items()} for r in rounds])
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
