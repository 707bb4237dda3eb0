"""Downloads by name: the right files from the right place, each of them once, and errors that say what to do."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from support.hub import Hub, claim, cut, flip, page, replace, sha256, status

from numgpt.errors import DownloadError
from numgpt.hub import download as module
from numgpt.hub import web
from numgpt.hub.download import download
from numgpt.hub.folders import hf_cache_folder
from numgpt.hub.registry import KNOWN, OPENAI_FILES, File, Known, is_name

ROOT = Path(__file__).parents[2]
WEIGHTS = b"\x08\0\0\0\0\0\0\0{" + bytes(range(256)) * 40
FILES = {
    "README.md": b"# A model",
    "config.json": b'{"n_ctx": 1024}',
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2\na b\n",
    "onnx/decoder.onnx": b"onnx",
    "pytorch_model.bin": b"\x80\x02" + bytes(999),
    "model.safetensors": WEIGHTS,
    "tf_model.h5": b"\x89HDF" + bytes(999),
}
NEEDED = ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
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


@pytest.fixture
def hub(server, monkeypatch, tmp_path) -> Hub:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HUGGINGFACE_HUB_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("NUMGPT_OPENAI_URL", server.openai_url + "/")
    monkeypatch.setattr(web, "sleep", lambda seconds: None)
    for part in (server.repos, server.originals, server.plans, server.seen):
        part.clear()
    server.blobs = True
    server.add("owner/name", FILES)
    return server


def message(name: str, folder: Path) -> str:
    with pytest.raises(DownloadError) as caught:
        download(name, folder)
    return str(caught.value)


def held(folder: Path) -> dict[str, bytes]:
    """The files of a folder without the record of the download."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "download.json"}


def asked(hub: Hub) -> list[str]:
    """The files that were asked for, in order."""
    return [path.rpartition("/")[2] for path in (request.path for request in hub.seen) if "/resolve/" in path]


# --- from the Hub


@pytest.mark.parametrize("blobs", [True, False])
def test_the_files_that_are_needed_are_fetched_at_one_commit(hub, tmp_path, blobs):
    hub.blobs = blobs
    told: list[str] = []
    assert download("owner/name", tmp_path / "new", progress=lambda name, *_: told.append(name)) == tmp_path / "new"
    assert held(tmp_path / "new") == {name: FILES[name] for name in NEEDED}
    assert asked(hub) == NEEDED
    assert list(dict.fromkeys(told)) == NEEDED
    assert hub.seen[0].path == "/api/models/owner/name/revision/main?blobs=true"
    assert all(hub.repos["owner/name"].commit in request.path for request in hub.requests("/resolve/"))
    assert json.loads((tmp_path / "new" / "download.json").read_bytes()) == {
        "source": "owner/name@main",
        "commit": hub.repos["owner/name"].commit,
        "files": {name: len(FILES[name]) for name in NEEDED},
    }


def test_a_revision_is_asked_for_by_its_name(hub, tmp_path):
    download("owner/name@refs/pr/1", tmp_path)
    assert hub.seen[0].path == "/api/models/owner/name/revision/refs%2Fpr%2F1?blobs=true"
    assert held(tmp_path).keys() == set(NEEDED)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pytorch_model.bin": b"\x80\x02"}, ["pytorch_model.bin"]),
        (
            {"pytorch_model.bin": b"PK\3\4", "model.safetensors.index.json": INDEX, **SHARDS},
            ["model.safetensors.index.json", *SHARDS],
        ),
        (
            {
                "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}',
                "pytorch_model-00001-of-00001.bin": b"PK\3\4",
            },
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
        ({"tf_model.h5": b"\x89HDF", "flax_model.msgpack": b"\x81\xa1h\x80", "rust_model.ot": b"PK"}, ["tf_model.h5"]),
        ({"flax_model.msgpack": b"\x81\xa1h\x80", "model.onnx": b"\x08"}, ["flax_model.msgpack"]),
        (
            {
                "tf_model.h5.index.json": b'{"weight_map": {"a": "tf_model-00001-of-00001.h5"}}',
                "tf_model-00001-of-00001.h5": b"\x89HDF",
            },
            ["tf_model.h5.index.json", "tf_model-00001-of-00001.h5"],
        ),
        (
            {
                "flax_model.msgpack.index.json": b'{"weight_map": {"a": "flax_model-00001-of-00001.msgpack"}}',
                "flax_model-00001-of-00001.msgpack": b"\xde\0\1\xa1h\x80",
            },
            ["flax_model.msgpack.index.json", "flax_model-00001-of-00001.msgpack"],
        ),
    ],
)
def test_other_weights_are_taken_where_there_is_no_single_safetensors(hub, tmp_path, files, expected):
    hub.add(
        "owner/name",
        {"config.json": b"{}", "added_tokens.json": b"{}", "model-00009-of-00009.safetensors": b"", **files},
    )
    download("owner/name", tmp_path)
    assert asked(hub) == ["config.json", "added_tokens.json", *expected]
    assert {name: held(tmp_path)[name] for name in expected} == {name: files[name] for name in expected}


def test_a_whole_folder_needs_no_network(hub, tmp_path, monkeypatch):
    download("owner/name", tmp_path)
    hub.seen.clear()
    assert download("owner/name", tmp_path) == tmp_path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download("owner/name", tmp_path) == tmp_path
    assert not hub.seen


def test_only_what_is_missing_is_fetched(hub, tmp_path):
    download("owner/name", tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "merges.txt").write_bytes(b"")
    hub.seen.clear()
    download("owner/name", tmp_path)
    assert held(tmp_path) == {name: FILES[name] for name in NEEDED}
    assert not hub.requests("/signed/")


def test_weights_that_somebody_copied_here_are_not_fetched_but_checked(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    download("owner/name", tmp_path)
    assert not hub.requests("/signed/")
    (tmp_path / "download.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    download("owner/name", tmp_path)
    assert held(tmp_path)["model.safetensors"] == WEIGHTS


def test_another_revision_replaces_what_is_not_its_own(hub, tmp_path):
    download("owner/name", tmp_path)
    old = hub.repos["owner/name"].commit
    hub.add("owner/name", {**FILES, "config.json": b'{"n_ctx": 2048}'})
    assert hub.repos["owner/name"].commit != old
    hub.seen.clear()
    download("owner/name@" + hub.repos["owner/name"].commit, tmp_path)
    assert held(tmp_path)["config.json"] == b'{"n_ctx": 2048}'
    assert not hub.requests("/signed/")


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b'{"source": "owner/name@main", "files": 5}', b"[" * 99999, b"\xff"]
)
def test_a_record_that_is_none_is_no_harm(hub, tmp_path, record):
    (tmp_path / "download.json").write_bytes(record)
    download("owner/name", tmp_path)
    assert held(tmp_path) == {name: FILES[name] for name in NEEDED}


def test_a_later_call_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "CHUNK", 1000)
    hub.plan("model.safetensors", cut(5000), *[cut(0)] * 5)
    said = message("owner/name", tmp_path)
    kept = sum(path.stat().st_size for path in tmp_path.glob("*.part"))
    assert said.endswith(f"{kept:,} bytes are kept, and it goes on from there")
    assert held(tmp_path).keys() > {"config.json", "vocab.json", "merges.txt"}
    hub.plans.clear()
    hub.seen.clear()
    download("owner/name", tmp_path)
    assert held(tmp_path) == {name: FILES[name] for name in NEEDED}
    assert sum(request.sent for request in hub.requests("/signed/")) == len(WEIGHTS) - kept


# --- names


def test_known_names_are_pinned(hub, tmp_path, monkeypatch):
    repo = hub.add("some/model", FILES)
    files = {
        "model.safetensors": File(len(WEIGHTS), sha256(WEIGHTS)),
        "config.json": File(None, sha256(FILES["config.json"])),
    }
    monkeypatch.setitem(KNOWN, "tiny", Known(1, 1, "", "some/model", repo.commit, files))
    download("tiny", tmp_path / "a")
    assert hub.seen[0].path == f"/api/models/some/model/revision/{repo.commit}?blobs=true"
    assert held(tmp_path / "a") == {name: FILES[name] for name in NEEDED}
    hub.seen.clear()
    download("tiny@main", tmp_path / "b")
    assert hub.seen[0].path == "/api/models/some/model/revision/main?blobs=true"
    monkeypatch.setitem(files, "config.json", File(None, "0" * 64))
    assert f"expected {'0' * 64}: the bytes were removed; " in message("tiny", tmp_path / "c")
    monkeypatch.setitem(files, "model.safetensors", File(None, "0" * 64))
    monkeypatch.setitem(files, "config.json", File(1))
    assert "more bytes came than the 1 of the file" in message("tiny", tmp_path / "e")
    monkeypatch.setitem(files, "config.json", File())
    assert "it is not the file that numgpt knows" in message("tiny", tmp_path / "d")


OPENAI = {
    "hparams.json": b'{"n_ctx": 1024}',
    "encoder.json": b'{"a": 0}',
    "vocab.bpe": b"#version: 0.2\n",
    "model.ckpt.index": b"index",
    "model.ckpt.data-00000-of-00001": bytes(5000),
}


@pytest.mark.parametrize("name", ["355M", "345M"])
def test_openais_originals_are_fetched_from_openai(hub, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.originals.update({f"355M/{file}": raw for file, raw in OPENAI.items()})
    download(name, tmp_path)
    assert held(tmp_path) == OPENAI
    assert [request.path for request in hub.seen] == [f"/gpt-2/models/355M/{file}" for file in OPENAI_FILES]
    assert {request.headers.get("Authorization") for request in hub.seen} == {None}
    hub.seen.clear()
    download(name, tmp_path)
    assert not hub.seen
    (tmp_path / "hparams.json").unlink()
    download(name, tmp_path)
    assert sum(request.sent for request in hub.seen if not request.path.endswith("hparams.json")) <= 6000


def test_an_original_is_held_against_its_md5(hub, tmp_path):
    hub.originals.update({f"355M/{file}": raw for file, raw in OPENAI.items()})
    hub.plan("vocab.bpe", flip(3))
    assert re.match(
        rf"{hub.openai_url}/355M/vocab.bpe: md5 \w+, expected \w+: the bytes were removed", message("355M", tmp_path)
    )
    assert not (tmp_path / "vocab.bpe").exists()


def test_an_original_that_is_not_there_is_no_file(hub, tmp_path):
    said = message("774M", tmp_path)
    assert said == f"{hub.openai_url}/774M/hparams.json: 404 Not Found: check the name and the revision"
    assert not held(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", "gpt3", "a/b/c", "../x", "a/..", "/a/b", "a/", "a\\b", "C:/x", "a/b\0", "a/b\n", "a b/c", "é/b", "a/b..c"],
)
def test_what_can_be_no_name_is_refused(hub, tmp_path, name):
    assert not is_name(name)
    assert hf_cache_folder(name) is None
    said = message(name, tmp_path)
    assert said.startswith(f"{name!r:.200} is no name to fetch: expected owner/name or owner/name@revision, as on the ")
    assert said.endswith(
        ", or one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, dialogpt-small, dialogpt-medium, "
        "dialogpt-large, 124M, 355M, 774M, 1558M"
    )
    assert not hub.seen


@pytest.mark.parametrize("revision", ["../x", "a/../b", "a b", "?x", "#x", "a%2f", "/x", "é", "\n"])
def test_what_can_be_no_revision_is_refused(hub, tmp_path, revision):
    said = message("owner/name@" + revision, tmp_path)
    assert said == f"{revision!r} is no revision: expected a branch, a tag or a commit, as in owner/name@main"
    assert not is_name("gpt2@" + revision)


def test_the_storyteller_needs_no_download(tmp_path):
    assert message("storyteller", tmp_path) == "storyteller: comes with numgpt: there is nothing to fetch"
    assert not is_name("storyteller")


# --- a list that can't be trusted


@pytest.mark.parametrize(
    "evil", ["../evil.json", "/etc/passwd", "C:\\x", "..\\x", "a\0b", "con", "x/config.json", "model.safetensors.exe"]
)
def test_no_name_from_a_server_leads_out_of_the_folder(hub, tmp_path, evil):
    hub.add("owner/name", {**FILES, evil: b"{}"})
    download("owner/name", tmp_path / "folder")
    assert held(tmp_path / "folder").keys() == set(NEEDED)
    index = {"weight_map": {"a": evil}}
    hub.add(
        "owner/name", {"config.json": b"{}", evil: b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    )
    path = tmp_path / "other" / "model.safetensors.index.json"
    assert (
        message("owner/name", tmp_path / "other") == f"{path}: {evil!r} is no name of a shard: don't trust this model"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]


@pytest.mark.parametrize(
    "index",
    [
        b"{}",
        b'{"weight_map": 5}',
        b'{"weight_map": {"a": [5]}}',
        b'{"weight_map": {"a": 5, "b": ""}}',
        b"{",
        b'{"a":' * 99999,
    ],
)
def test_an_index_that_is_none_is_said(hub, tmp_path, index):
    hub.add("owner/name", {"config.json": b"{}", "model.safetensors.index.json": index})
    path = tmp_path / "model.safetensors.index.json"
    assert message("owner/name", tmp_path) == f"{path}: no index of shards: delete it, and run this again"


def test_a_shard_that_is_not_there_is_said(hub, tmp_path):
    hub.add("owner/name", {"config.json": b"{}", "model.safetensors.index.json": INDEX})
    path = tmp_path / "model.safetensors.index.json"
    expected = "lists model-00001-of-00002.safetensors, which the repository does not have: tell its owner"
    assert message("owner/name", tmp_path) == f"{path}: {expected}"


SHORT = ["README.md", "vocab.json", "config.json", "model.safetensors"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_without_config_or_weights_is_said(hub, tmp_path, missing):
    hub.add("owner/name", {name: FILES[name] for name in SHORT if name != missing})
    assert message("owner/name", tmp_path) == (
        f"owner/name: has no {missing}, expected config.json and one of model.safetensors, pytorch_model.bin, "
        "tf_model.h5, flax_model.msgpack, or the .index.json of one: choose another model or revision"
    )
    assert hub.requests("/resolve/") == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["onnx/decoder_model.onnx"], "has no weights that numgpt reads, but an ONNX model (decoder_model.onnx): use"),
        (["openvino_model.xml", "openvino_model.bin"], "but an OpenVINO model (openvino_model.bin): use the original"),
        (["rust_model.ot", "64.tflite"], "but a TensorFlow Lite model (64.tflite): use the original"),
        (
            ["gptq_model-4bit-128g.safetensors", "quantize_config.json"],
            "the weights are quantised by GPTQ (quantize",
        ),
    ],
)
def test_a_repository_of_weights_that_are_not_read_says_which_they_are(hub, tmp_path, files, said):
    hub.add("owner/name", {"config.json": b"{}", **dict.fromkeys(files, b"x")})
    assert said in message("owner/name", tmp_path)
    assert hub.requests("/resolve/") == []


SETUP = "check HF_ENDPOINT and the proxy"
SHA = b'"sha": "' + b"0" * 40 + b'"'
NO_LIST = f"no list of files with a commit, as the Hub sends it: {SETUP}"
NO_JSON = "the list of files is no JSON, it may have been cut, 6 times in a row: run this again later"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", NO_LIST),
        (b"{" + SHA + b"}", NO_LIST),
        (b"{" + SHA + b', "siblings": 5}', NO_LIST),
        (b"{" + SHA + b', "siblings": [5]}', NO_LIST),
        (b"{" + SHA + b', "siblings": [{"rfilename": []}]}', NO_LIST),
        (b"{" + SHA + b', "siblings": [{"rfilename": "a", "lfs": 5}]}', NO_LIST),
        (b'{"sha": "main", "siblings": []}', NO_LIST),
        (b"{", NO_JSON),
        (b'{"a":' * 99999, NO_JSON),
        (
            b"[]",
            "begins with b'[]', no JSON object: a proxy or a login page may be in between, look at the address in "
            "a browser",
        ),
    ],
)
def test_a_list_that_is_none_is_said(hub, tmp_path, body, expected):
    hub.always("list", replace(body))
    assert message("owner/name", tmp_path) == f"{hub.url}/api/models/owner/name/revision/main?blobs=true: {expected}"


def test_a_web_page_is_no_list(hub, tmp_path):
    hub.always("list", page())
    assert ": begins with b'<!DOCTYPE html><title>Log in</ti', a web page or an error page: " in message(
        "owner/name", tmp_path
    )


def test_a_list_too_long_is_not_read(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LIST", 100)
    assert message("owner/name", tmp_path).endswith(f": the list of files is longer than 100 bytes: {SETUP}")


def test_what_the_list_says_of_sizes_is_only_taken_if_it_can_be_one(hub, tmp_path):
    siblings = [
        {"rfilename": "config.json", "size": "15"},
        {"rfilename": "model.safetensors", "size": True, "lfs": {"size": -1, "sha256": "x"}},
    ]
    commit = hub.repos["owner/name"].commit
    hub.always("list", replace(json.dumps({"sha": commit, "siblings": siblings}).encode()))
    download("owner/name", tmp_path)
    assert held(tmp_path) == {name: FILES[name] for name in ("config.json", "model.safetensors")}


def test_a_list_is_asked_for_again(hub, tmp_path):
    hub.plan(
        "list", status(500), cut(20), status(429, retry_after=1), claim(content_encoding="gzip"), cut(0, reset=True)
    )
    download("owner/name", tmp_path)
    assert held(tmp_path).keys() == set(NEEDED)


# --- who may


def test_a_model_that_is_not_there(hub, tmp_path, monkeypatch):
    said = message("owner/nothing", tmp_path).removeprefix(hub.url)
    assert said == (
        "/api/models/owner/nothing/revision/main?blobs=true: 401 Unauthorized (Repository not found): check the name; "
        "if the model is private or gated, set HF_TOKEN to a token that may read it, from "
        "huggingface.co/settings/tokens"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    said = message("owner/nothing", tmp_path)
    assert said.endswith(": 404 Not Found (Repository not found): check the name and the revision")
    said = message("owner/name@v9", tmp_path)
    assert said.endswith(": 404 Not Found (Invalid rev id: v9): check the name and the revision")


def test_a_gated_model(hub, tmp_path, monkeypatch):
    hub.add("owner/gated", FILES, gate="token")
    said = message("owner/gated", tmp_path)
    assert (
        "/config.json: 401 Unauthorized (Access to model owner/gated is restricted. You must be logged in.): " in said
    )
    assert "set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", " hf_good\n")
    download("owner/gated", tmp_path)
    assert held(tmp_path).keys() == set(NEEDED)
    hub.add("owner/closed", FILES, gate="terms")
    assert message("owner/closed", tmp_path / "closed").endswith(
        ": accept the terms on the model's page, with the account that HF_TOKEN is of; the token must be one that may "
        "read it"
    )


def test_the_token_is_sent_to_the_hub_only(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    download("owner/name", tmp_path)
    for request in hub.seen:
        expected = None if request.path.startswith("/signed/") else "Bearer hf_good"
        assert request.headers.get("Authorization") == expected
        assert request.host == (hub.other_url if expected is None else hub.url).removeprefix("http://")


@pytest.mark.parametrize("token", ["hf good", "hf\ngood", "hf_göod", "hf\x00"])
def test_a_token_that_can_be_none_is_not_shown(hub, tmp_path, monkeypatch, token):
    monkeypatch.setattr(os, "environ", {**os.environ, "HF_TOKEN": token})
    assert (
        message("owner/name", tmp_path)
        == "HF_TOKEN: a space or another character that no token has is in it: copy it again"
    )


def test_the_token_that_was_saved_is_for_the_hub_itself(hub, tmp_path, monkeypatch):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_saved\n")
    assert module._auth_header() == {}  # a mirror
    for endpoint in "", "https://huggingface.co", "https://huggingface.co/":
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert module._auth_header() == {"Authorization": "Bearer hf_saved"}
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "nothing"))
    assert module._auth_header() == {}
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert module._auth_header() == {"Authorization": "Bearer hf_good"}


# --- the machine


def test_offline_it_says_what_is_missing(hub, tmp_path, monkeypatch):
    download("owner/name", tmp_path)
    (tmp_path / "config.json").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "ON")
    hub.seen.clear()
    end = "and HF_HUB_OFFLINE is set: unset it, and run this again"
    assert message("owner/name", tmp_path) == f"owner/name: {tmp_path} has no config.json, {end}"
    assert message("gpt2", tmp_path) == f"gpt2: {tmp_path} is not known to hold all its files, {end}"
    assert not hub.seen


def test_too_little_space_is_said_before_the_weights_are_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 15_000))
    download("owner/name", tmp_path / "a")
    hub.add("owner/name", {"config.json": b"{}", "model.safetensors.index.json": INDEX, **SHARDS})
    said = message("owner/name", tmp_path / "b")
    need = 2 * len(WEIGHTS) + 1
    assert said.startswith(f"{tmp_path / 'b'}: {need:,} more bytes are needed, 15,000 are free: make room, ")
    hub.seen.clear()
    (tmp_path / "b" / "model-00002-of-00002.safetensors").write_bytes(SHARDS["model-00002-of-00002.safetensors"])
    download("owner/name", tmp_path / "b")  # what is there needs no room
    assert len(hub.requests("/signed/")) == 1


def test_a_folder_that_can_not_be_made_is_said(hub, tmp_path):
    (tmp_path / "file").touch()
    assert message("owner/name", tmp_path / "file" / "folder").endswith(": check the folder")


def test_a_proxy_is_used_as_requests_does(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    download("owner/name", tmp_path)
    assert held(tmp_path) == {name: FILES[name] for name in NEEDED}
    assert hub.seen[0].path == "http://hub.invalid/api/models/owner/name/revision/main?blobs=true"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert message("owner/name", tmp_path / "new").endswith(
        ": hub.invalid: the proxy: Connection refused, 6 times in a row: run this again later"
    )
