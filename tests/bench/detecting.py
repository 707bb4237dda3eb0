"""What `numgpt detect` finds: texts that the storyteller marked, and how often the hints without a key are wrong.

    python tests/bench/detecting.py

Marks: the p-value that nine in ten texts are below, after the way through text; also where tokens are replaced by those
of other stories, and where 50 marked tokens stand among 600 of people.

Hints: for each figure a bound is set that 5 % of the people's stories in the even places go beyond. Told is how many go
beyond it of those in the odd places, which is the rate of false alarms, and of the texts that the model wrote.
"""

import argparse
from pathlib import Path

import numpy as np

import numgpt
from numgpt.measure.hints import look
from numgpt.measure.watermarks import find_green_list, find_watermark

VAL = Path(__file__).parents[2] / "weights/storyteller/val.txt"
WAYS = {
    "temperature 1": {},
    "temperature 0.8, top-k 40": {"temperature": 0.8, "top_k": 40},
    "temperature 0.5": {"temperature": 0.5},
}
KEY, NUMBER = "secret", 15485863
HINTS = {"top_10": 1, "perplexity": -1, "burstiness": -1}  # 1: more of it hints at a model; -1: less


def pieces(model, tokens, most):
    """Cut the stories that the model was not trained on into pieces of so many tokens."""
    ids = model.tokenizer.encode(VAL.read_text(encoding="utf-8"), allow_special=True)
    end = model.config.eos_token_id
    whole = [ids[at : at + tokens] for at in range(0, len(ids) - tokens, tokens)]
    return [piece for piece in whole if end not in piece][:most]


def measure(model, texts):
    """Return the figures of each text, as an array of a row a figure."""
    found = [look(model, through_text(model, ids)) for ids in texts]
    return {name: np.array([getattr(one, name) or 0.0 for one in found]) for name in HINTS}


def made(model, prompts, tokens, **options):
    """Return texts of so many tokens that the model writes behind prompts."""
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "seed": 1, **options}
    return numgpt.generate_batch(prompts, model.params, model.config, **options)


def through_text(model, ids):
    """Return the ids of the text that some ids make, which may be others."""
    return model.tokenizer.encode(model.tokenizer.decode(ids))


def show_marks(model, people):
    """Print how sure the marks are."""
    prompts, others = [ids[:16] for ids in people], [i for ids in people for i in ids]

    def show(name, p_values):
        print(f"  {name:<44} {np.quantile(p_values, 0.9):9.1e}", flush=True)

    for way, options in {**WAYS, "temperature 0.3": {"temperature": 0.3}}.items():
        texts = made(model, prompts, 200, watermark=KEY, **options)
        for n in 50, 200:
            show(
                f"race, {way}, {n} tokens", [find_watermark(through_text(model, ids[:n]), KEY).p_value for ids in texts]
            )
        if not options:
            nats(model, prompts, texts, "race")
            dice = np.random.default_rng(0)
            for share in 0.1, 0.2, 0.3:
                edited = [[int(dice.choice(others)) if dice.random() < share else i for i in ids] for ids in texts]
                show(f"200 tokens, {share:.0%} replaced", [find_watermark(ids, KEY).p_value for ids in edited])
            around = [others[at : at + 600] for at in range(0, 600 * len(texts), 600)]
            mixed = [[*a[:300], *ids[:50], *a[300:]] for a, ids in zip(around, texts, strict=False) if len(a) == 600]
            show("50 tokens among 600 of people, parts", [find_watermark(ids, KEY).p_of_parts for ids in mixed])
    nats(model, prompts, made(model, prompts, 200), "no mark")
    size = len(model.tokenizer)
    for way, options in {**WAYS, "temperature 0": {"temperature": 0}}.items():
        texts = made(model, prompts, 200, green_list=NUMBER, **options)
        for n in 50, 200:
            found = [find_green_list(through_text(model, ids[:n]), NUMBER, size) for ids in texts]
            show(f"green, {way}, {n} tokens", [one.p_value for one in found])
        if not options:
            nats(model, prompts, texts, "green")


def nats(model, prompts, texts, name):
    """Print how surprising texts are to the model, and the error of that."""
    found = [numgpt.score(model, ids, given=prompt).nats_per_token for prompt, ids in zip(prompts, texts, strict=True)]
    print(f"  nats a token, {name}: {np.mean(found):.3f} +- {np.std(found) / len(found) ** 0.5:.3f}", flush=True)


def show_hints(model, people):
    """Print how often the hints are wrong."""
    prompts, tokens = [ids[:16] for ids in people], len(people[0])
    of_people = measure(model, people)
    of_model = {way: measure(model, made(model, prompts, tokens, **options)) for way, options in WAYS.items()}
    print(f"{'':<12} {'people':>8} {'bound':>8} {'false':>7}", *(f"{way:>28}" for way in WAYS))
    for name, sign in HINTS.items():
        x = sign * of_people[name]
        bound = np.quantile(x[::2], 0.95)
        shares = [
            f"{np.median(figures[name]):14.3f} {100 * (sign * figures[name] > bound).mean():10.1f} %"
            for figures in of_model.values()
        ]
        middle, false = np.median(of_people[name]), 100 * (x[1::2] > bound).mean()
        print(f"{name:<12} {middle:8.3f} {sign * bound:8.3f} {false:5.1f} %", *(f"{share:>28}" for share in shares))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=120, help="the most of each kind (default: 120)")
    args = parser.parse_args()
    model = numgpt.load("storyteller")
    people = pieces(model, 200, args.texts)
    print(f"{len(people)} texts of each kind, 200 tokens")
    show_hints(model, people)
    show_marks(model, people)


if __name__ == "__main__":
    main()
