"""huggingface_hub's own client against the server of our tests, which so is shown to behave like the Hub."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub import Hub, cut, sha256, status

from numgpt.hub import download as module
from numgpt.hub import folders, web
from numgpt.hub.download import download
from numgpt.hub.folders import hf_cache_folder
from numgpt.hub.registry import choose_files

WEIGHTS = b"\x08\0\0\0\0\0\0\0{" + bytes(range(256)) * 4000
SHARDS = {f"model-0000{i}-of-00002.safetensors": WEIGHTS + bytes([i]) for i in (1, 2)}
INDEX = json.dumps({"weight_map": {str(i): name for i, name in enumerate(SHARDS)}}).encode()
SMALL = {"config.json": b'{"n_ctx": 1024}', "vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\n"}
MODELS = {
    "owner/single": {**SMALL, "model.safetensors": WEIGHTS, "README.md": b"# A model"},
    "owner/sharded": {**SMALL, "model.safetensors.index.json": INDEX, **SHARDS},
    "owner/pickle": {**SMALL, "pytorch_model.bin": b"\x80\x02" + WEIGHTS},
}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    with Hub() as server:
        for name, files in MODELS.items():
            server.add(name, files)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield server


def theirs(expression: str) -> str:
    """Let huggingface_hub do something, in a process of its own: it reads the environment when it is imported."""
    code = f"import json, huggingface_hub as h, huggingface_hub.constants as c; print({expression})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


@pytest.mark.parametrize("name", MODELS)
def test_huggingface_hub_gets_the_same_bytes_and_we_find_them_in_its_cache(hub, tmp_path, name):
    folder = Path(theirs(f"h.snapshot_download({name!r})"))
    for file, raw in MODELS[name].items():
        assert (folder / file).read_bytes() == raw
    assert hf_cache_folder(name) == hf_cache_folder(f"{name}@{hub.repos[name].commit}") == folder

    ours = download(name, tmp_path / "ours")
    for file in choose_files(MODELS[name], name):
        assert (ours / file).read_bytes() == (folder / file).read_bytes()


def test_half_a_model_in_its_cache_is_none(hub):
    theirs("h.hf_hub_download('owner/single', 'config.json')")
    assert hf_cache_folder("owner/single") is None
    theirs("h.hf_hub_download('owner/single', 'model.safetensors')")
    assert hf_cache_folder("owner/single") is not None


def test_its_blobs_are_named_by_the_hashes_that_we_check(hub):
    folder = Path(theirs("h.snapshot_download('owner/single')"))
    config, weights = SMALL["config.json"], WEIGHTS
    git = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
    assert (folder / "config.json").resolve().name == git
    assert (folder / "model.safetensors").resolve().name == sha256(weights)


def test_the_list_of_files_is_read_alike(hub):
    info = json.loads(
        theirs(
            "json.dumps({s.rfilename: [s.size, s.lfs and s.lfs.sha256] for s in "
            "h.HfApi().model_info('owner/single', files_metadata=True).siblings})"
        )
    )
    assert info["model.safetensors"] == [len(WEIGHTS), sha256(WEIGHTS)]
    assert info["config.json"] == [len(SMALL["config.json"]), None]
    assert hub.seen[-1].path == "/api/models/owner/single?blobs=true"


def test_it_resumes_after_a_cut_and_sends_its_token_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.plan("model.safetensors", cut(500_000))
    path = Path(theirs("h.hf_hub_download('owner/single', 'model.safetensors')"))
    assert path.read_bytes() == WEIGHTS
    signed = hub.requests("/signed/")
    assert len(signed) == 2
    assert {request.headers.get("Authorization") for request in signed} == {None}
    assert hub.requests("/resolve/")[0].headers["Authorization"] == "Bearer hf_good"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("'owner/nothing', 'config.json'", "RepositoryNotFoundError"),
        ("'owner/single', 'nothing.json'", "RemoteEntryNotFoundError"),
        ("'owner/single', 'config.json', revision='v9'", "RevisionNotFoundError"),
        ("'owner/gated', 'config.json'", "GatedRepoError"),
    ],
)
def test_it_understands_the_errors(hub, call, expected):
    hub.add("owner/gated", SMALL, gate="token")
    with pytest.raises(RuntimeError, match=expected):
        theirs(f"h.hf_hub_download({call})")


def test_where_it_gives_up_we_do_not(hub, tmp_path, monkeypatch):
    """A 500 for the file itself: huggingface_hub raises; we try again."""
    monkeypatch.setattr("numgpt.hub.web.sleep", lambda seconds: None)
    hub.plan("model.safetensors", status(500))
    with pytest.raises(RuntimeError, match="500"):
        theirs("h.hf_hub_download('owner/single', 'model.safetensors')")
    hub.plan("model.safetensors", status(500))
    assert (download("owner/single", tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_environment_is_read_alike(hub, monkeypatch, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_saved")
    for change in (
        {},
        {"HF_HOME": "~/x"},
        {"HF_HUB_CACHE": "$HOME/y"},
        {"HF_HUB_CACHE": ""},
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "no"},
        {"TRANSFORMERS_OFFLINE": "YES"},
    ):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setenv(name, value)
            cache, offline = theirs("c.HF_HUB_CACHE, c.HF_HUB_OFFLINE, sep=':'").rsplit(":", 1)
            assert web.is_offline() == (offline == "True")
            if change != {"HF_HUB_CACHE": ""}:  # theirs is then the folder one is in, which can't be meant
                assert folders._hf_cache() == Path(cache)
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    assert module._auth_header()["Authorization"] == f"Bearer {theirs('h.get_token()')}"
