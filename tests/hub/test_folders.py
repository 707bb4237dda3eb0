"""Where checkpoints lie: in the folder of checkpoints, beside numgpt, in the Hugging Face cache; whole or not."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint, write_json
from support.hub import sha256

import numgpt
from numgpt.errors import DownloadError
from numgpt.hub import folders
from numgpt.hub.folders import bundled, find, hf_cache_folder, list_names, read_shards, weights_folder
from numgpt.hub.registry import KNOWN

WEIGHTS = b"\x08\0\0\0\0\0\0\0{" + bytes(range(256)) * 40
INDEX = json.dumps(
    {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors",
        }
    }
).encode()
SHARDS = {"model-00001-of-00002.safetensors": WEIGHTS, "model-00002-of-00002.safetensors": WEIGHTS + b"!"}
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
HELD = {"config.json": b"{}", "model.safetensors": WEIGHTS}
linked = pytest.mark.skipif(sys.platform == "win32", reason="Windows needs a privilege to make symbolic links")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Each test runs in an empty folder, with an empty folder of checkpoints."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "weights"))


# --- by name


def test_the_bundled_model_is_only_found_by_its_own_name(tmp_path):
    assert find("Storyteller2") is None
    assert find("storyteller") == bundled()


@pytest.mark.parametrize("left", [["a.part"], ["config.json"], ["model.safetensors.index.json"]])
def test_a_folder_of_a_download_that_was_cut_is_not_taken_for_the_checkpoint(tmp_path, left):
    folder = tmp_path / "weights" / "gpt2"
    folder.mkdir(parents=True)
    for name in left:
        write_json(folder / name, {"weight_map": {"wte.weight": "model-00001-of-00001.safetensors"}})
    assert find("gpt2") is None
    write_checkpoint(folder)
    (folder / "a.part").unlink(missing_ok=True)
    assert find("gpt2") == folder


def test_names_are_the_known_ones_and_then_those_that_are_there(tmp_path):
    for name in ("zebra", "gpt2", "owner/b", "owner/a", "storyteller"):
        write_checkpoint(tmp_path / "weights" / name)
    (tmp_path / "weights" / "empty").mkdir()
    known = ["storyteller", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
    known += ["dialogpt-small", "dialogpt-medium", "dialogpt-large", "124M", "355M", "774M", "1558M"]
    assert list_names() == [*known, "owner/a", "owner/b", "zebra"]
    for name in "b.gguf", "split-00001-of-00002.gguf", "split-00002-of-00002.gguf", "zebra/in.gguf", "empty/a.gguf":
        (tmp_path / "weights" / name).write_bytes(b"")
    alone = ["b.gguf", "empty/a.gguf", "owner/a", "owner/b", "split-00001-of-00002.gguf", "zebra"]
    assert list_names() == [*known, *alone]


def test_names_are_the_known_ones_where_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "nowhere"))
    assert list_names() == list(KNOWN)


# --- the folder of checkpoints


def test_the_environment_chooses_the_folder_of_checkpoints(tmp_path):
    assert weights_folder() == tmp_path / "weights"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_environment_a_checkout_has_its_own(monkeypatch, value):
    monkeypatch.delenv("NUMGPT_WEIGHTS") if value is None else monkeypatch.setenv("NUMGPT_WEIGHTS", value)
    monkeypatch.setattr(folders, "CHECKOUT", Path("checkout"))
    assert weights_folder() == Path("checkout/weights")
    assert bundled() == Path("checkout/weights/storyteller")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/numgpt"),
        ("linux", {}, "/people/me/.cache/numgpt"),
        ("linux", {"XDG_CACHE_HOME": "", "LOCALAPPDATA": "/x"}, "/people/me/.cache/numgpt"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/people/me/Library/Caches/numgpt"),
        ("win32", {"LOCALAPPDATA": "/x", "XDG_CACHE_HOME": "/y"}, "/x/numgpt"),
        ("win32", {}, "/people/me/AppData/Local/numgpt"),
    ],
)
def test_once_installed_it_is_the_cache_folder_of_the_user(monkeypatch, platform, variables, expected):
    for name in ("NUMGPT_WEIGHTS", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(folders, "CHECKOUT", None)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: cls("/people/me")))
    assert weights_folder() == Path(expected)
    assert bundled() == Path(numgpt.__file__).parent / "weights" / "storyteller"


# --- the Hugging Face cache


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def cached(root: Path, repo: str, commit: str, files: dict[str, bytes], **refs: str) -> Path:
    """Make a model in the cache, as huggingface_hub lays it out."""
    model = root / ("models--" + repo.replace("/", "--"))
    snapshot = model / "snapshots" / commit
    (model / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for name, raw in files.items():
        (model / "blobs" / sha256(raw)).write_bytes(raw)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", sha256(raw)))
    for ref, target in refs.items():
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / ref).write_text(target)
    return snapshot


@linked
def test_a_model_in_the_cache_is_found_by_branch_and_commit(own_cache, tmp_path):
    root = tmp_path / "hf" / "hub"
    folder = cached(root, "owner/name", COMMIT, HELD, main=COMMIT, v1="0" * 40)
    assert hf_cache_folder("owner/name") == hf_cache_folder("owner/name@" + COMMIT) == folder
    assert hf_cache_folder("owner/name@v1") is None
    assert hf_cache_folder("owner/name@v2") is None
    assert hf_cache_folder("owner/other") is None
    assert hf_cache_folder("124M") is None


@linked
def test_a_known_name_is_found_by_its_pin_or_by_main_or_by_its_old_name(own_cache, tmp_path):
    root, other = tmp_path / "hf" / "hub", "1" * 40
    assert hf_cache_folder("gpt2") is None
    old = cached(root, "gpt2", other, HELD, main=other)
    assert hf_cache_folder("gpt2") == old
    main = cached(root, "openai-community/gpt2", other, HELD, main=other)
    assert hf_cache_folder("gpt2") == main
    pinned = cached(root, "openai-community/gpt2", COMMIT, HELD)
    assert hf_cache_folder("gpt2") == pinned
    assert hf_cache_folder("gpt2@main") == main


@linked
@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": b"{}"},
        {"model.safetensors": WEIGHTS},
        {"config.json": b"{}", "model.safetensors.index.json": INDEX},
    ],
)
def test_half_a_model_in_the_cache_is_none(own_cache, tmp_path, files):
    cached(tmp_path / "hf" / "hub", "owner/name", COMMIT, files, main=COMMIT)
    assert hf_cache_folder("owner/name") is None


@linked
def test_shards_in_the_cache_are_a_model_when_all_are_there(own_cache, tmp_path):
    files = {"config.json": b"{}", "model.safetensors.index.json": INDEX, **SHARDS}
    folder = cached(tmp_path / "hf" / "hub", "owner/name", COMMIT, files, main=COMMIT)
    assert hf_cache_folder("owner/name") == folder
    (folder / "model-00002-of-00002.safetensors").resolve().unlink()  # a link to nothing
    assert hf_cache_folder("owner/name") is None


@linked
@pytest.mark.parametrize("text", ["", "main", "../" * 3, "0" * 39, "\xff"])
def test_a_branch_in_the_cache_that_is_no_commit_is_none(own_cache, tmp_path, text):
    folder = cached(tmp_path / "hf" / "hub", "owner/name", COMMIT, HELD)
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text(text, encoding="latin-1")
    assert hf_cache_folder("owner/name") is None


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(Path("/people/me")))
    monkeypatch.setenv("USERPROFILE", str(Path("/people/me")))
    expected: list[tuple[dict[str, Any], str]] = [
        ({}, "/people/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "~/hf"}, "/people/me/hf/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HUB_CACHE": "$HOME/new"}, "/people/me/new"),
    ]
    for change, path in expected:
        for name, value in change.items():
            monkeypatch.setenv(name, value)
        assert folders._hf_cache() == Path(path)


def test_an_index_too_long_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "index.json").write_bytes(INDEX)
    monkeypatch.setattr(folders, "MAX_INDEX", len(INDEX))
    assert read_shards(tmp_path / "index.json", SHARDS) == list(SHARDS)
    monkeypatch.setattr(folders, "MAX_INDEX", len(INDEX) - 1)
    with pytest.raises(DownloadError, match="no index of shards"):
        read_shards(tmp_path / "index.json", SHARDS)
