"""GGUF against gguf-py and llama.cpp: files that its quantiser made, and files that we write."""

import ctypes

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from support import ggufs
from support.checkpoints import hub_tensors
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.gguf import GPT2_SPLITTERS, read_gguf
from numgpt.checkpoint.gguf_tokens import to_lists
from numgpt.checkpoint.quants import TYPES, unpack
from numgpt.checkpoint.vocabulary import gpt2, write_vocabulary
from numgpt.hub.loading import load_tokenizer, locate
from numgpt.params import leaves

# What llama-quantize is asked for, and a type that the file has then: of rows of 256, and of rows of 192.
KINDS = {
    "ALL_F32": ("F32", "F32"),
    "MOSTLY_F16": ("F16", "F16"),
    "MOSTLY_BF16": ("BF16", "BF16"),
    "MOSTLY_Q8_0": ("Q8_0", "Q8_0"),
    "MOSTLY_Q4_0": ("Q4_0", "Q4_0"),
    "MOSTLY_Q4_1": ("Q4_1", "Q4_1"),
    "MOSTLY_Q5_0": ("Q5_0", "Q5_0"),
    "MOSTLY_Q5_1": ("Q5_1", "Q5_1"),
    "MOSTLY_Q2_K": ("Q2_K", None),
    "MOSTLY_Q3_K_M": ("Q3_K", None),
    "MOSTLY_Q4_K_M": ("Q4_K", "Q5_0"),
    "MOSTLY_Q5_K_M": ("Q5_K", "Q5_1"),
    "MOSTLY_Q6_K": ("Q6_K", "Q8_0"),
    "MOSTLY_IQ4_NL": ("IQ4_NL", "IQ4_NL"),
    "MOSTLY_IQ4_XS": ("IQ4_XS", "IQ4_NL"),
}
IDS = [(7919 * i * i + 104729 * i + 1) % 300 for i in range(24)]
TEXTS = [
    "Hello world",
    "Hello, w\u00f6rld! \U0001f642  it's 12345678 o'clock\n\n\n  we'll\tsee\r\n ",
    "   leading and trailing   ",
    "\u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u00e9e\u0301",
    "def f(x):\n    return x**2  # \u2264 3.14159\n",
    "<|endoftext|>a<|endoftext|>",
    "1234567890 12 1 \u0661\u0662\u0663 \u00b2\u00b3\u00bd \u2167",
    "\x00\x01\x7f\u00a0\u2003\u3000x",
]


def make_source(path, width):
    """A random GPT-2 of wide weights, written by the test's own writer in F32."""
    sizes = {"vocab_size": 300, "n_positions": 32, "n_embd": width, "n_layer": 2, "n_inner": 4 * width}
    generator = np.random.default_rng(width)
    tensors = {}
    for name, x in hub_tensors(**sizes).items():
        scale = 1 / np.sqrt(x.shape[0]) if x.ndim == 2 and name.startswith("h.") else 0.3
        noise = (generator.standard_normal(x.shape) * scale).astype(np.float32)
        tensors[name] = 1 + noise if "ln_" in name and name.endswith("weight") else noise
    keys = {**ggufs.KEYS, **ggufs.tokenizer(300), "gpt2.attention.head_count": width // 32}
    keys |= {"gpt2.embedding_length": width, "gpt2.feed_forward_length": 4 * width, "gpt2.context_length": 32}
    return ggufs.write(path, keys, {name: ggufs.f32(x) for name, x in ggufs.renamed(tensors).items()})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {width: make_source(folder / f"{width}.gguf", width) for width in (256, 192)}


def quantise(source, target, kind):
    """What llama-quantize makes of a file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{kind}")
    params.nthread = 1
    done = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    assert done == 0
    return target


def run(path, ids, n_ctx=32):
    """llama.cpp's logits, and the model."""
    model = llama_cpp.Llama(str(path), n_ctx=n_ctx, logits_all=True, verbose=False, n_threads=1)
    model.eval(ids)
    return np.array(model.scores[: len(ids)]), model


@pytest.mark.parametrize("width", [256, 192])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_its_quantiser_has_the_weights_of_gguf_py(sources, tmp_path, kind, width):
    path = quantise(sources[width], tmp_path / "q.gguf", kind)
    model = numgpt.load(path)
    ours = read_gguf(path)[1]
    reader = gguf.GGUFReader(path)
    assert len(reader.tensors) == len(ours)
    expected = {}
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        assert ours[tensor.name].block.name == tensor.tensor_type.name
        np.testing.assert_array_equal(ours[tensor.name].read().view(np.uint32), numbers.view(np.uint32))
        expected[tensor.name] = numbers
    asked = KINDS[kind][width == 192]
    assert asked is None or asked in {tensor.tensor_type.name for tensor in reader.tensors}
    for leaf, x in leaves(model.params):  # the same after all renaming and turning
        stem, last = leaf.rsplit(".", 1) if leaf.endswith((".w", ".b", ".g")) else (leaf, "g")
        layer, inner = stem.split(".", 2)[1:] if stem.startswith("h.") else ("", stem)
        name = f"blk.{layer}.{ggufs.NAMES[inner]}" if layer else ggufs.TOP[inner]
        y = expected[f"{name}.{'bias' if last == 'b' else 'weight'}"]
        np.testing.assert_array_equal(x, y.T if last == "w" else y, err_msg=leaf)

    logits, peer = run(path, IDS)
    truth = numgpt.forward(IDS, model.params, model.config)
    rounding = abs(logits - truth).max()
    plain = kind in ("ALL_F32", "MOSTLY_F16", "MOSTLY_BF16")
    assert rounding < (5e-3 if plain else 0.1) * abs(truth).max()
    top = np.sort(logits, axis=1)
    sure = top[:, -1] - top[:, -2] > 2 * rounding
    assert sure.sum() > 4
    np.testing.assert_array_equal(logits.argmax(axis=1)[sure], truth.argmax(axis=1)[sure])
    for text in TEXTS[:2]:
        mine = [i for word in text.split() for i in model.tokenizer.encode(word)]
        theirs = [i for word in text.split() for i in peer.tokenize(word.encode(), add_bos=False)]
        assert mine == theirs


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("F32",)])
def test_random_blocks_are_gguf_pys(name):
    kind = gguf.GGMLQuantizationType[name]
    packed = np.random.default_rng(1).integers(0, 256, (2048, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(packed, kind).reshape(-1)
    ours = unpack(name, packed.reshape(-1))
    assert ((ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))).all()


def test_greedy_ids_are_llama_cpps(tmp_path):
    """Of a trained model, written in each dtype: as long as llama.cpp's margin is above its own rounding."""
    for dtype in "F32", "F16", "Q8_0":
        path = convert(locate("storyteller"), tmp_path / f"{dtype}.gguf", dtype=dtype)
        model = numgpt.load(path)
        ids = model.tokenizer.encode("Once upon a time there was a king")
        same = 0
        for _ in range(24):
            logits, _ = run(path, ids, 64)
            truth = numgpt.forward(ids, model.params, model.config, logits_to_keep=1)[0]
            rounding = abs(logits[-1] - truth).max()
            assert rounding < (2e-3 if dtype != "Q8_0" else 4e-2) * abs(truth).max()
            two = np.sort(logits[-1])[-2:]
            if two[1] - two[0] <= 2 * rounding:
                break
            same += 1
            assert truth.argmax() == logits[-1].argmax()
            ids.append(int(truth.argmax()))
        assert same >= 12


# ---- what we write


def test_its_quantiser_makes_the_same_bytes_of_our_f32_as_we_do_ourselves(sources, tmp_path):
    """Tensor for tensor; but it gives a lone token_embd the type of a head, which for Q8_0 is the same."""
    for width, source in sources.items():
        for dtype in "F16", "Q8_0":
            theirs = quantise(source, tmp_path / f"theirs{width}.gguf", f"MOSTLY_{dtype}")
            ours = convert(source, tmp_path / f"ours{width}{dtype}.gguf", dtype=dtype)
            one, other = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
            expected = {tensor.name: tensor for tensor in other.tensors}
            assert len(one.tensors) == len(expected)
            for tensor in one.tensors:
                assert tensor.tensor_type == expected[tensor.name].tensor_type
                np.testing.assert_array_equal(tensor.data, expected[tensor.name].data, err_msg=tensor.name)


def save_transformers(folder, **sizes):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50257, n_positions=64, n_embd=64, n_head=2, n_layer=2, **sizes)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0"])
def test_llama_cpp_runs_what_we_write(tmp_path, dtype):
    """With the ids and the logits of Transformers, an odd width of the MLP and GPT-2's whole vocabulary."""
    model, folder = save_transformers(tmp_path / "folder", n_inner=160, layer_norm_epsilon=1e-3)
    write_vocabulary(gpt2(), folder)
    path = convert(folder, tmp_path / "m.gguf", dtype=dtype)
    ids = gpt2().encode(TEXTS[1])[:24]
    logits, peer = run(path, ids)
    with torch.no_grad():
        truth = model(torch.tensor([ids])).logits[0].numpy()
    assert abs(logits - truth).max() < {"F32": 3e-3, "F16": 6e-3, "Q8_0": 5e-2}[dtype] * abs(truth).max()
    assert (peer.token_eos(), peer.token_bos()) == (50256, 50256)
    for text in TEXTS:
        for special in False, True:
            theirs = peer.tokenize(text.encode(), add_bos=False, special=special)
            assert load_tokenizer(path).encode(text, allow_special=special) == theirs, text
    keys = gguf.GGUFReader(path).fields
    assert keys["general.architecture"].contents() == "gpt2"
    assert keys["tokenizer.ggml.tokens"].contents(50256) == "<|endoftext|>"


def test_a_model_without_a_tokenizer_runs_too(tmp_path):
    model, folder = save_transformers(tmp_path / "folder")
    logits, _ = run(convert(folder, tmp_path / "m.gguf"), IDS)
    with torch.no_grad():
        truth = model(torch.tensor([IDS])).logits[0].numpy()
    assert abs(logits - truth).max() < 3e-3 * abs(truth).max()


def test_an_untied_head_and_added_tokens_reach_llama_cpp_and_transformers(tmp_path):
    model, folder = save_transformers(tmp_path / "folder", tie_word_embeddings=False)
    tokenizer = GPT2TokenizerFast.from_pretrained(write_hub(tmp_path / "tokenizer"))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["<name>"])
    tokenizer.save_pretrained(folder)
    model.resize_token_embeddings(50304)
    model.save_pretrained(folder)
    path = convert(folder, tmp_path / "m.gguf")
    logits, peer = run(path, IDS)
    with torch.no_grad():
        truth = model(torch.tensor([IDS])).logits[0].numpy()
    assert abs(logits - truth).max() < 3e-3 * abs(truth).max()
    text = "Hello <name> <pad>world<|endoftext|>"
    ids = numgpt.load(path).tokenizer.encode(text, allow_special=True)
    assert ids == peer.tokenize(text.encode(), add_bos=False, special=True) == tokenizer(text)["input_ids"]
    back = GPT2TokenizerFast.from_pretrained(convert(path, tmp_path / "back"))
    assert back(text)["input_ids"] == ids
    assert numgpt.load(path).config.n_tokens == 50259


def write_hub(folder):
    folder.mkdir()
    write_vocabulary(gpt2(), folder)
    return folder


# ---- what others write


def gguf_py(path, big=False, **changes):
    """A vocabulary alone, as gguf-py writes it."""
    endian = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, changes.pop("arch", "gpt2"), endianess=endian)
    keys = {**ggufs.tokenizer(300), **changes}
    writer.add_tokenizer_model(keys["tokenizer.ggml.model"])
    writer.add_token_list(keys["tokenizer.ggml.tokens"])
    writer.add_token_types(keys["tokenizer.ggml.token_type"])
    writer.add_token_merges(keys["tokenizer.ggml.merges"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_vocabulary_of_gguf_py_is_a_tokenizer(tmp_path):
    assert load_tokenizer(gguf_py(tmp_path / "v.gguf")).encode("hi") == [256]
    for file, said in (
        (gguf_py(tmp_path / "b.gguf", big=True), "big-endian"),
        (gguf_py(tmp_path / "l.gguf", arch="llama"), "'llama', expected 'gpt2'"),
    ):
        with pytest.raises(numgpt.errors.CheckpointError, match=said):
            load_tokenizer(file)


@pytest.mark.parametrize("name", sorted({*GPT2_SPLITTERS} - {"default"}))
def test_a_splitter_of_another_name_is_gpt2s_to_llama_cpp_too(tmp_path, name):
    """But for "default", which llama.cpp takes where the key is missing, and which no GPT-2 means."""
    tokens, types, merges = to_lists(gpt2(), 50257)
    lists = {"tokens": tokens, "token_type": types, "merges": merges, "eos_token_id": 50256, "bos_token_id": 50256}
    keys = {f"tokenizer.ggml.{key}": x for key, x in {"model": "gpt2", "pre": name, **lists}.items()}
    path = ggufs.write(tmp_path / "v.gguf", {**ggufs.KEYS, **keys}, {})
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in TEXTS:
        assert load_tokenizer(path).encode(text) == peer.tokenize(text.encode(), add_bos=False, special=False)


def test_a_split_file_of_gguf_py_is_one_model(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt2", split_max_tensors=5)
    for key, x in ggufs.KEYS.items():
        if key != "general.architecture":
            (writer.add_float32 if isinstance(x, float) else writer.add_uint32)(key, x)
    tensors = ggufs.renamed(hub_tensors())
    for name, x in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = tmp_path / "m-00001-of-00006.gguf"
    assert read_gguf(first)[1].keys() == tensors.keys()
    for path in first, tmp_path:
        np.testing.assert_array_equal(numgpt.load(path).params["wte"], tensors["token_embd.weight"])
