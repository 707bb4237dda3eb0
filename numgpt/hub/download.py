"""Fetch checkpoints by name: from the Hugging Face Hub, and OpenAI's originals.

A download ends in one of two ways: each file is whole, checked and under its name, or a DownloadError says what
happened and what to do, and the next call goes on from there. How one file is fetched, transfer.py tells.

Of a model on the Hub we ask first for the list of its files at a revision. The answer has the commit, which we keep to
from there on, and with `blobs=true` the sizes, and the sha256 of large files. Only files that we read are fetched.

Environment, as huggingface_hub reads it: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME;
proxies and certificates as requests reads them. NUMGPT_OPENAI_URL names a mirror of OpenAI's originals.

Sources: huggingface_hub, hf_api.py (the list), constants.py (the environment) and file_download.py (the cache).
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from numgpt.errors import DownloadError
from numgpt.hub.registry import KNOWN, OPENAI_ALIASES, OPENAI_FILES, File
from numgpt.hub.transfer import (
    HEAD,
    SETUP,
    Again,
    Progress,
    check_space,
    disk_errors,
    fetch,
    find_parts,
    is_offline,
    open_session,
    persist,
    read_chunks,
    request,
    wrong_start,
)

if TYPE_CHECKING:
    import requests

HUB_URL = "https://huggingface.co"
OPENAI_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"

# The only names that a file can get, whatever a server or an index says.
SMALL_FILES = (
    "config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD = re.compile(r"(model-\d{5}-of-\d{5}\.safetensors|pytorch_model-\d{5}-of-\d{5}\.bin)", re.ASCII)
RECORD = "download.json"  # lies in a folder that is whole, and says whose files these are

MAX_LIST = 1 << 25  # bytes of a list of files, or of an index


class Source(NamedTuple):
    """Where a checkpoint is fetched from."""

    repo: str  # "owner/name" on the Hub; "" for OpenAI's originals
    revision: str  # a branch, a tag or a commit; of the originals the size: "124M"
    files: Mapping[str, File]  # what is known of its files beforehand


def download(name: str, folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Fetch those files of a checkpoint that are not there yet.

    name      a known name, such as "gpt2" or "124M"; or "owner/name" or "owner/name@revision" on the Hub
    folder    where they go; it is made if need be
    progress  called now and then as progress(file, bytes so far, bytes in all or None)
    Returns the folder. One that is whole stays as it is, without a look at the network: to follow a branch that moved,
    delete the folder's download.json.
    Raises DownloadError. What was fetched is kept: the same call goes on from there.
    """
    folder, source = Path(folder), parse_name(name)
    missing = _find_missing(folder, source)
    if missing == []:
        return folder
    if is_offline():
        what = "has no " + ", ".join(missing) if missing else "is not known to hold all its files"
        raise DownloadError(f"{name}: {folder} {what}, and HF_HUB_OFFLINE is set: unset it, and run this again")

    with open_session() as session, disk_errors(folder):
        headers = _auth_header() if source.repo else {}
        base, commit, files = _list_files(session, source, headers)
        names = choose_files(files, name) if source.repo else list(OPENAI_FILES)
        check_space(folder, sum(_bytes_left(folder / file, files[file].size) for file in names))
        for file in names:  # grows by the shards, when their index has come
            fetch(f"{base}/{file}", folder / file, *files[file], headers=headers, session=session, progress=progress)
            if file.endswith(".index.json"):
                shards = read_shards(folder / file, files)
                check_space(folder, sum(_bytes_left(folder / shard, files[shard].size) for shard in shards))
                names += shards
        sizes = {file: (folder / file).stat().st_size for file in names}
        _write_record(folder, {"source": _label(source), "commit": commit, "files": sizes})
    return folder


def parse_name(name: str) -> Source:
    """Tell where a checkpoint is fetched from. Raises DownloadError for what can't be a name.

    >>> parse_name("gpt2-medium@main").repo, parse_name("345M").revision, parse_name("owner/name@v1")[:2]
    ('openai-community/gpt2-medium', '355M', ('owner/name', 'v1'))
    """
    known, _, revision = name.partition("@")
    known = OPENAI_ALIASES.get(known, known)
    if known in KNOWN:
        entry = KNOWN[known]
        if entry.repo and revision:
            return Source(entry.repo, _check_revision(revision), {})
        if entry.repo or (entry.revision == known and not revision):
            return Source(entry.repo, entry.revision, entry.files)
        if not revision:
            raise DownloadError(f"{name}: comes with numgpt: there is nothing to fetch")
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", known, re.ASCII) and ".." not in known and len(known) <= 96:
        return Source(known, _check_revision(revision or "main"), {})
    raise DownloadError(
        f"{name!r:.200} is no name to fetch: expected owner/name or owner/name@revision, as on the Hugging Face Hub, "
        f"or one of {', '.join(n for n in KNOWN if n != 'storyteller')}"
    )


def is_name(name: str) -> bool:
    """Tell whether `download` takes a name: it is known, or could be that of a model on the Hub.

    >>> is_name("gpt2"), is_name("owner/name@v1"), is_name("gpt3"), is_name("../folder"), is_name("a/b/c")
    (True, True, False, False, False)
    """
    try:
        return bool(parse_name(name))
    except DownloadError:
        return False


def hf_cache_folder(name: str) -> Path | None:
    """Return the folder of a model in the Hugging Face cache, or None where it is not there with config and weights.

    name  as of `download`. Of a name with a pinned revision, another revision is taken too, if the cache has only that
    Source: huggingface_hub, file_download.py: models--owner--name/snapshots/<commit>, and refs/<branch or tag>, which
    holds a commit. Files there are links into blobs/.
    """
    if not is_name(name) or not (source := parse_name(name)).repo:
        return None
    # Before they had an owner, the models of OpenAI lay under their bare names.
    for repo in [source.repo] + [name] * (name in KNOWN):
        root = _hf_cache() / ("models--" + repo.replace("/", "--"))
        for revision in [source.revision] + ["main"] * (name in KNOWN):
            commit = revision
            with suppress(OSError, ValueError):
                commit = (root / "refs" / revision).read_text(encoding="ascii").strip()
            folder = root / "snapshots" / commit
            if re.fullmatch("[0-9a-f]{40}", commit) and _has_model(folder):
                return folder
    return None


def choose_files(names: Iterable[str], model: str) -> list[str]:
    """Choose from a repository the files that are needed, the weights last: safetensors before torch's own format.

    Raises DownloadError where there is no config.json, or no weights that numgpt reads; `model` is named in it.

    >>> choose_files(["pytorch_model.bin", "model.safetensors", "../x", "config.json", "tf_model.h5"], "owner/name")
    ['config.json', 'model.safetensors']
    """
    names = set(names)
    weights = [file for file in WEIGHTS if file in names][:1]
    if not weights or "config.json" not in names:
        raise DownloadError(
            f"{model}: has no {WEIGHTS[0] if 'config.json' in names else 'config.json'}, expected config.json and one "
            f"of {', '.join(WEIGHTS)}: choose another model or revision"
        )
    return [file for file in SMALL_FILES if file in names] + weights


def read_shards(index: Path, names: Iterable[str]) -> list[str]:
    """Return the names of the shards that an index lists, in order.

    Raises DownloadError for an index that is none, a name that can't be that of a shard, or one not among `names`.
    """
    try:
        if index.stat().st_size > MAX_LIST:
            raise ValueError("an index of millions of tensors")
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DownloadError(f"{index}: no index of shards: delete it, and run this again") from None
    for shard in shards:
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise DownloadError(f"{index}: {shard!r:.200} is no name of a shard: don't trust this model")
        if shard not in names:
            raise DownloadError(f"{index}: lists {shard}, which the repository does not have: tell its owner")
    return shards


# --- the Hub's list of files


def _list_files(
    session: "requests.Session", source: Source, headers: Mapping[str, str]
) -> tuple[str, str, dict[str, File]]:
    """Return the address that the files are below, the commit, and what is known of each file."""
    if not source.repo:
        base = os.environ.get("NUMGPT_OPENAI_URL") or OPENAI_URL
        files = {name: source.files.get(name, File()) for name in OPENAI_FILES}
        return f"{base.rstrip('/')}/{source.revision}", source.revision, files
    url = f"{_endpoint()}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}?blobs=true"
    answer = persist(url, lambda: _fetch_list(session, url, headers))
    try:
        files = {entry["rfilename"]: _read_entry(entry) for entry in answer["siblings"]}
        commit = answer["sha"]
        sound = isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit)
    except (KeyError, TypeError, AttributeError):
        sound = None
    if not sound:
        raise DownloadError(f"{url}: no list of files with a commit, as the Hub sends it: {SETUP}")
    for name, (size, sha256) in source.files.items():
        if name in files:
            files[name] = File(size or files[name].size, sha256 or files[name].sha256)
    return f"{_endpoint()}/{source.repo}/resolve/{commit}", commit, files


def _fetch_list(session: "requests.Session", url: str, headers: Mapping[str, str]) -> Any:
    body = b""
    with request(session, url, headers) as (response, _):
        for chunk in read_chunks(response):
            body += chunk
            if len(body) > MAX_LIST:
                raise DownloadError(f"{url}: the list of files is longer than {MAX_LIST:,} bytes: {SETUP}")
    if wrong := wrong_start("list.json", body[:HEAD]):
        raise DownloadError(f"{url}: {wrong}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Again("the list of files is no JSON, it may have been cut") from None


def _read_entry(entry: Mapping[str, Any]) -> File:
    lfs = entry.get("lfs") or {}
    size, sha256 = lfs.get("size", entry.get("size")), lfs.get("sha256")
    sound = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
    return File(size if type(size) is int and size > 0 else None, sha256 if sound else None)


def _check_revision(revision: str) -> str:
    if re.fullmatch(r"[\w./+-]+", revision, re.ASCII) and ".." not in revision and not revision.startswith("/"):
        return revision
    raise DownloadError(
        f"{revision!r:.200} is no revision: expected a branch, a tag or a commit, as in owner/name@main"
    )


def _label(source: Source) -> str:
    return f"{source.repo or 'openai'}@{source.revision}"


# --- the environment


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB_URL).rstrip("/")


def _auth_header() -> dict[str, str]:
    """Return the header with HF_TOKEN. The token that `hf auth login` saved was given for the Hub, not for a mirror."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token and _endpoint() == HUB_URL:
        with suppress(OSError, ValueError):
            token = Path(os.environ.get("HF_TOKEN_PATH") or _hf_home() / "token").read_text(encoding="utf-8").strip()
    if not re.fullmatch("[!-~]*", token):
        raise DownloadError("HF_TOKEN: a space or another character that no token has is in it: copy it again")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _hf_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _expand(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))


def _hf_cache() -> Path:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expand(chosen) if chosen else _hf_home() / "hub"


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


# --- the disk


def _bytes_left(path: Path, size: int | None) -> int:
    here = [p.stat().st_size for p in [path, *find_parts(path)] if p.is_file()]
    return max(0, (size or 0) - max(here, default=0))


def _has_model(folder: Path) -> bool:
    """Tell whether a folder has a config and all weights."""
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        weights = choose_files(names, "")[-1]
        return not weights.endswith(".index.json") or bool(read_shards(folder / weights, names))
    except OSError:  # a DownloadError too
        return False


def _find_missing(folder: Path, source: Source) -> list[str] | None:
    """Return which files of a folder are missing or of the wrong size. None if there is no record of them."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        files = record["files"].items() if record["source"] == _label(source) else None
        return None if files is None else [name for name, size in files if not _has_size(folder / name, size)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    new = folder / f"{RECORD}.{os.getpid()}.part"
    new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(new, folder / RECORD)
