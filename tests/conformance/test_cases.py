"""What lies beside the weights, in the forms that people have, against Transformers and tokenizers as they read it."""

import json
import random

import pytest
import tokenizers
import torch
import transformers

import numgpt
from numgpt.checkpoint.pieces import spellings
from numgpt.checkpoint.tokenizer_json import PATTERNS
from numgpt.checkpoint.vocabulary import from_folder

IDS = [5, 9, 2, 31]
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 63, "tie_word_embeddings": False}


def edit(path, **changes):
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of a small random model that repeats itself little."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(4)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, bos_token_id=62, eos_token_id=62))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    model.save_pretrained(folder)
    return folder


# ---- what ends a text


@pytest.mark.parametrize("config", [62, None, [62, "b"], "a"])
@pytest.mark.parametrize("generation", ["no file", "silent", None, "a", "b", ["a"], [62, "b"], ["b", "a"]])
def test_a_text_ends_where_transformers_ends_it(weights, tmp_path, config, generation):
    free = transformers.GPT2LMHeadModel.from_pretrained(weights).eval()
    free.generation_config.eos_token_id = None
    prompt = torch.tensor([IDS])
    mask = torch.ones_like(prompt)
    new = free.generate(prompt, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 4:].tolist()
    a, b = new[2], new[1]
    assert len({a, b, 62}) == 3

    def ids(value):
        return [ids(x) for x in value] if isinstance(value, list) else {"a": a, "b": b}.get(value, value)

    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit(tmp_path / "config.json", eos_token_id=ids(config))
    if generation == "no file":
        (tmp_path / "generation_config.json").unlink()
    elif generation == "silent":
        (tmp_path / "generation_config.json").write_text("{}")
    else:
        edit(tmp_path / "generation_config.json", eos_token_id=ids(generation))
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    want = peer.generate(prompt, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 4:].tolist()
    ends = peer.generation_config.eos_token_id
    if want[-1] in (ends if isinstance(ends, list) else [ends]):
        want.pop()
    ours = numgpt.load(tmp_path)
    assert list(numgpt.generate(IDS, ours.params, ours.config, max_new_tokens=6, temperature=0)) == want


# ---- the files of a tokenizer

SPECIAL = ["<pad>", "<sep>", "<a>", "<s>", "</s>", "<x>", "ab", "Ġb", "<|endoftext|>"]
NAMED = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
KINDS = ["GPT2Tokenizer", "GPT2TokenizerFast", None, "RobertaTokenizer", "BartTokenizerFast"]
TEXTS = ["a<pad>b <sep> <a> ab<s>  </s> <x><|endoftext|> b<y> <unk>", " ab", "ab", ""]


def vocabulary():
    """A small one, as vocab.json has it, and its merges."""
    merges = [("a", "b"), ("Ġ", "b"), ("Ġ", "a"), ("Ġa", "b")]
    pieces = [*spellings(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    return {piece: i for i, piece in enumerate(pieces)}, merges


def token(draw):
    text = draw.choice(SPECIAL)
    if draw.random() < 0.5:
        return text
    return {
        "content": text,
        **{k: draw.random() < 0.3 for k in ("lstrip", "rstrip", "normalized")},
        "single_word": False,
    }


def in_config(value):
    return {"__type": "AddedToken", **value} if isinstance(value, dict) else value


def draw_tokenizer(draw, folder):
    """Write the files of a tokenizer, in any of the ways in which they are told. Returns what was told."""
    ids, merges = vocabulary()
    end = len(ids) - 1

    def listed():
        """A few tokens with the next ids, the same in every file."""
        tokens = {}
        for i, text in enumerate(["<pad>", "<x>", "<y>"][: draw.randint(1, 3)]):
            flags = {key: draw.random() < 0.3 for key in ("lstrip", "rstrip", "normalized", "special")}
            tokens[end + 1 + i] = {"content": text, **flags, "single_word": False}
        return tokens

    edit(folder / "config.json", model_type="gpt2")
    config, told, new = {}, {}, listed()
    whole = draw.random() < 0.5
    kind = draw.choice(KINDS + ["PreTrainedTokenizerFast", "TokenizersBackend", "Unknown"] * whole)
    if draw.random() < 0.2:
        edit(folder / "config.json", tokenizer_class=kind)
    elif kind:
        config["tokenizer_class"] = kind
    config |= {key: in_config(token(draw)) for key in [*NAMED, "image_token"] if draw.random() < 0.15}
    config |= {
        key: draw.random() < 0.6
        for key in ("add_bos_token", "add_eos_token", "add_prefix_space")
        if draw.random() < 0.25
    }
    if draw.random() < 0.2:
        config["additional_special_tokens"] = [in_config(token(draw)) for _ in range(draw.randint(0, 2))]
    elif draw.random() < 0.2:
        config["extra_special_tokens"] = draw.choice([["<a>"], {}, {"video_token": "<sep>"}, []])
    if draw.random() < 0.2:
        end_fields = {"content": "<|endoftext|>", "special": True, "normalized": draw.random() < 0.5}
        config["added_tokens_decoder"] = {str(end): end_fields, **{str(i): fields for i, fields in new.items()}}
    if draw.random() < 0.9:
        edit(folder / "tokenizer_config.json", **config)
        told["config"] = config
    if draw.random() < 0.4:
        told["map"] = {key: token(draw) for key in NAMED if draw.random() < 0.2}
        if draw.random() < 0.3:
            told["map"]["additional_special_tokens"] = [token(draw) for _ in range(draw.randint(0, 2))]
        edit(folder / "special_tokens_map.json", **told["map"])
    if draw.random() < 0.3:
        told["added"] = {fields["content"]: i for i, fields in new.items()}
        edit(folder / "added_tokens.json", **told["added"])
    if not whole:
        edit(folder / "vocab.json", **ids)
        (folder / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
        return told
    level = {"type": "ByteLevel", "add_prefix_space": draw.random() < 0.3, "trim_offsets": True, "use_regex": True}
    piece = {"id": "<|endoftext|>", "type_id": 0}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": draw.choice([[a], [{"SpecialToken": piece}, a], [a, {"SpecialToken": piece}]]),
        "pair": [a, {"SpecialToken": piece}, b],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}},
    }
    added = {
        end: {
            "content": "<|endoftext|>",
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
    }
    added |= new if draw.random() < 0.4 else {}
    told["json"] = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": i, **fields} for i, fields in added.items()],
        "pre_tokenizer": draw.choice([level, {"type": "Sequence", "pretokenizers": [level]}]),
        "post_processor": draw.choice([level, None, template, {"type": "Sequence", "processors": [level, template]}]),
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "vocab": ids, "merges": [f"{x} {y}" for x, y in merges]},
    }  # fmt: skip
    edit(folder / "tokenizer.json", **told["json"])
    return told


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 1500), marks=pytest.mark.thorough)])
def test_a_tokenizer_is_all_that_its_files_say(tmp_path, seeds):
    compared = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        told = draw_tokenizer(random.Random(seed), folder)
        try:
            peer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception:  # it does not take everything
            continue
        ours = from_folder(folder)
        got = [ours.encode(text, allow_special=True) for text in TEXTS]
        assert got == [peer(text)["input_ids"] for text in TEXTS], (seed, told)
        compared += 1
    assert compared > 0.9 * len(seeds)


# ---- the steps of a tokenizer.json

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PREFIXED = {**LEVEL, "add_prefix_space": True}
BARE = {**LEVEL, "use_regex": False}
SPLITS = [
    {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    for pattern in (*({"Regex": pattern} for pattern in PATTERNS), {"Regex": r"\p{N}"}, {"String": " "})
    for behavior in ("Isolated", "Removed")
    for invert in (False, True)
]
STEPS = [LEVEL, PREFIXED, BARE, *SPLITS, {"type": "Digits", "individual_digits": True}, {"type": "Whitespace"}]
NORMALIZERS = [{"type": "NFC"}, {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "x"}]
PAIR = {"sep": ["a", 64], "cls": ["b", 65]}
PROCESSORS = [
    LEVEL,
    {"type": "RobertaProcessing", **PAIR, "trim_offsets": True, "add_prefix_space": True},
    {"type": "BertProcessing", **PAIR},
]
LONG = ["It's 2019,  x\ty\n\n z", " \u00c9t\u00e9 \ufb01n IT'S ab12 ''re", "a<|endoftext|>b <|endoftext|> ab", "", "  "]


def in_sequence(draw, key, steps):
    """Steps as one member, or as a Sequence of them, maybe of another Sequence."""
    if len(steps) == 1 and draw.random() < 0.5:
        return steps[0]
    whole = {"type": "Sequence", key: steps}
    return {"type": "Sequence", key: [whole]} if draw.random() < 0.2 else whole


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 6000), marks=pytest.mark.thorough)])
def test_a_step_is_done_as_the_tokenizers_library_does_it_or_refused(tmp_path, seeds):
    ids, merges = vocabulary()
    end = {"id": ids["<|endoftext|>"], "content": "<|endoftext|>", "special": True}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    done = 0
    for seed in seeds:
        draw = random.Random(seed)
        splitters = draw.choice([[LEVEL], [PREFIXED], [SPLITS[draw.choice([0, 4])], BARE], draw.choices(STEPS, k=2)])
        normalizers = draw.choices(NORMALIZERS, k=1) if draw.random() < 0.1 else []
        data = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [{**end, **flags}],
            "normalizer": in_sequence(draw, "normalizers", normalizers) if normalizers or draw.random() < 0.5 else None,
            "pre_tokenizer": in_sequence(draw, "pretokenizers", splitters),
            "post_processor": in_sequence(draw, "processors", draw.choices(PROCESSORS, k=draw.randint(1, 2))),
            "decoder": in_sequence(draw, "decoders", [LEVEL]),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": draw.random() < 0.5, "byte_fallback": False,
                      "ignore_merges": draw.random() < 0.3, "vocab": ids, "merges": merges},
        }  # fmt: skip
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        peer = tokenizers.Tokenizer.from_file(str(path))
        try:
            ours = from_folder(tmp_path)
        except numgpt.CheckpointError:
            continue
        for text in LONG:
            assert ours.encode(text, allow_special=True) == peer.encode(text).ids, (seed, text, data)
        done += 1
    assert done > 0.4 * len(seeds)
