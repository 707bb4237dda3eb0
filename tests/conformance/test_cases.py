"""What lies beside the weights, in the forms that people have, against Transformers and tokenizers as they read it."""

import json

import pytest

import numgpt

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

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
