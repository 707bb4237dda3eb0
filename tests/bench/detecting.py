"""How often the figures of `numgpt detect` without a key are wrong: people's stories beside those of the storyteller.

    python tests/bench/detecting.py

For each figure a bound is set that 5 % of the people's stories in the even places go beyond. Told is how many go beyond
it of those in the odd places, which is the rate of false alarms, and of the texts that the model wrote.
"""

import argparse
from pathlib import Path

import numpy as np

import numgpt
from numgpt.measure.hints import look

VAL = Path(__file__).parents[2] / "weights/storyteller/val.txt"
WAYS = {
    "temperature 1": {},
    "temperature 0.8, top-k 40": {"temperature": 0.8, "top_k": 40},
    "temperature 0.5": {"temperature": 0.5},
}
HINTS = {"top_10": 1, "rest": -1, "perplexity": -1, "burstiness": -1}  # 1: more of it hints at a model; -1: less


def pieces(model, tokens, most):
    """Cut the stories that the model was not trained on into pieces of so many tokens."""
    ids = model.tokenizer.encode(VAL.read_text(encoding="utf-8"), allow_special=True)
    end = model.config.eos_token_id
    whole = [ids[at : at + tokens] for at in range(0, len(ids) - tokens, tokens)]
    return [piece for piece in whole if end not in piece][:most]


def measure(model, texts):
    """Return the figures of each text, as an array of a row a figure."""
    found = [look(model, model.tokenizer.encode(model.tokenizer.decode(ids))) for ids in texts]
    return {name: np.array([getattr(one, name) or 0.0 for one in found]) for name in HINTS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200, help="of each text (default: 200)")
    parser.add_argument("--texts", type=int, default=240, help="the most of each kind (default: 240)")
    args = parser.parse_args()
    model = numgpt.load("storyteller")
    people = pieces(model, args.tokens, args.texts)
    of_people = measure(model, people)
    prompts = [ids[:16] for ids in people]
    of_model = {}
    for way, options in WAYS.items():
        new = numgpt.generate_batch(
            prompts,
            model.params,
            model.config,
            max_new_tokens=args.tokens,
            min_new_tokens=args.tokens,
            seed=1,
            **options,
        )
        of_model[way] = measure(model, new)
    print(f"{len(people)} texts of each kind, {args.tokens} tokens")
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


if __name__ == "__main__":
    main()
