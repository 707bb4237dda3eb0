"""What lies beside the weights goes along byte for byte; the weights themselves, and other checkpoints, do not."""

import json
import os
import pickle
import zipfile

import pytest
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_json, write_tokenizer

import numgpt
from numgpt.checkpoint.companions import companions, is_weights
from numgpt.checkpoint.export import convert

KEPT = {
    "chat_template.jinja": b"{{ x }}\r\n",
    "additional_chat_templates/tool.jinja": b"{{ y }}",
    "README.md": b"# A model\n",
    "LICENSE": b"as you like\n",
    ".gitattributes": b"*.bin filter=lfs\n",
    "vocab.txt": b"[PAD]\n",
    "spiece.model": b"\x0a\x0e",
    "tokenizer.model": b"\x0a\x0e",
    "training_args.bin": b"PK\3\4 of the Trainer",
    "optimizer.pt": b"PK\3\4 of the Trainer",
    "rng_state_0.pth": b"\x80\2 of the Trainer",
    "trainer_state.json": b"{}",
    "train.bin": b"\1\0\2\0",
    "meta.pkl": pickle.dumps({"stoi": {}}),
    "handler.py": b"raise SystemExit\n",
    "runs/today/events.out.tfevents.1": b"\0",
    "no ending": b"",
    "generation_config.json": b'{ "eos_token_id":  3 }',
    "tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer"}',
}
LEFT = {
    "pytorch_model.bin": b"\x80\2",
    "pytorch_model-00001-of-00002.bin": b"version https://git-lfs",
    "pytorch_model.bin.index.json": b"{}",
    "other.safetensors": b"",
    "training.safetensors": b"",
    "tf_model.h5": b"",
    "flax_model.msgpack": b"",
    "rust_model.ot": b"",
    "onnx/model.onnx": b"",
    "onnx/config.json": b"{}",
    "gpt2-q4.gguf": b"GGUF",
    "last.ckpt": b"",
    "checkpoint": b"",
    "model-900.index": b"",
    "model-900.data-00000-of-00001": b"",
    "model-900.meta": b"",
    "checkpoint-500/config.json": b"{}",
    "checkpoint-500/model.safetensors": b"",
    "checkpoint-500/deeper/a.txt": b"",
    ".git/HEAD": b"",
    ".cache/huggingface/x.lock": b"",
}


@pytest.fixture
def folder(tmp_path):
    sizes = {**CONFIG, "vocab_size": TOKENS}
    folder = write_tokenizer(write_checkpoint(tmp_path / "m", hub_tensors(vocab_size=TOKENS), sizes))
    for name, raw in {**KEPT, **LEFT}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_converted_whole(folder, tmp_path):
    target = convert(folder, tmp_path / "target")
    kept = {*KEPT, "vocab.json", "merges.txt"}
    assert names_in(target) == {*kept, "config.json", "model.safetensors"}
    for name in kept:
        assert (target / name).read_bytes() == (folder / name).read_bytes(), name
    ours, theirs = numgpt.load(target), numgpt.load(folder)
    assert ours.config == theirs.config
    assert ours.tokenizer.encode("ab") == theirs.tokenizer.encode("ab")


def test_of_the_neighbours_of_a_file_only_those_that_are_known_by_name_go_along(folder, tmp_path):
    target = convert(folder / "model.safetensors", tmp_path / "target")
    assert names_in(target) == {
        "config.json", "model.safetensors", "vocab.json", "merges.txt", "meta.pkl", "tokenizer_config.json", "LICENSE",
        "generation_config.json", "chat_template.jinja", "vocab.txt", "spiece.model", "tokenizer.model", "README.md",
    }  # fmt: skip


def test_a_conversion_into_its_own_source_does_not_copy_itself(folder):
    target = convert(folder, folder / "target")
    assert not (target / "target").exists()
    again = convert(folder, folder / "again")  # the first is a checkpoint of its own by now
    assert names_in(again) == names_in(target)


def test_what_is_no_file_stays(folder, tmp_path):
    os.symlink(tmp_path, folder / "link")  # would never end
    os.symlink(folder / "nowhere", folder / "dangling")
    os.symlink(folder / "README.md", folder / "READ.ME")  # as in the cache of the Hub: what it stands for is copied
    target = convert(folder, tmp_path / "target")
    assert not (target / "link").exists()
    assert not (target / "dangling").exists()
    assert (target / "READ.ME").read_bytes() == KEPT["README.md"]
    assert not (target / "READ.ME").is_symlink()


def test_config_json_keeps_what_it_says_of_ends_and_other_things(tmp_path):
    folder = write_checkpoint(tmp_path / "m", config={**CONFIG, "eos_token_id": [1, 2], "bos_token_id": None, "x": [7]})
    write_json(folder / "generation_config.json", {"eos_token_id": 3})
    values = json.loads((convert(folder, tmp_path / "target") / "config.json").read_text())
    assert (values["eos_token_id"], values["bos_token_id"], values["x"]) == ([1, 2], None, [7])
    assert numgpt.load(tmp_path / "target").config.eos_token_id == 3


def test_a_zip_or_a_pickle_is_no_weights_unless_its_name_says_so(tmp_path):
    for name in "data.zip", "data.pt", "x.pkl":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a", "b")
    assert [is_weights(tmp_path / name) for name in ("data.zip", "data.pt", "x.pkl")] == [False, True, False]
    assert companions(tmp_path) == [tmp_path / "data.zip", tmp_path / "x.pkl"]
