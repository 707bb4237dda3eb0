"""What can name a checkpoint, and which files make one.

`KNOWN` is the table of those that people know by name: where they lie, and what is known of their files before asking
a server. Its sources: lock files that pin these models, seen in public repositories. A size or a hash that was not seen
there is left out: the Hub sends its own. A revision is pinned where one was seen; its files then can't change.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from numgpt.checkpoint import adapters
from numgpt.checkpoint.unread import refuse_names
from numgpt.errors import CheckpointError, DownloadError


class File(NamedTuple):
    """What is known of a file before a server is asked."""

    size: int | None = None
    sha256: str | None = None


class Known(NamedTuple):
    """A checkpoint that people know by name."""

    params: int
    file_bytes: int  # of the weights, about
    about: str
    repo: str = ""  # "owner/name" on the Hub; "" for the storyteller, which comes with numgpt, and OpenAI's originals
    revision: str = "main"  # for OpenAI's originals: the folder
    files: dict[str, File] = {}  # noqa: RUF012, nobody writes to it


# The only names that a file can get, whatever a server or an index says.
SMALL_FILES = (
    "config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
WEIGHTS = (  # the first that there is
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "tf_model.h5", "tf_model.h5.index.json", "flax_model.msgpack", "flax_model.msgpack.index.json",
)  # fmt: skip
OPENAI_FILES = ("hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index", "model.ckpt.data-00000-of-00001")
OPENAI_ALIASES = {"117M": "124M", "345M": "355M"}  # the names of 2019

_VOCAB = File(1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783")
_MERGES = File(456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")
_TOKENIZER = {
    "vocab.json": _VOCAB,
    "merges.txt": _MERGES,
    "tokenizer.json": File(1355256, "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6"),
    "tokenizer_config.json": File(26, "5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f"),
}

KNOWN = {
    "storyteller": Known(5_918_720, 11_844_840, "tells folk tales; comes with numgpt"),
    "gpt2": Known(
        124_439_808,
        548_105_171,
        "OpenAI's GPT-2, small",
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        {
            "config.json": File(665, "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4"),
            "generation_config.json": File(124, "ed0b32ac72c0f5f44a719abb2d7786ea5146c871f83717b7f2018065954de02b"),
            "model.safetensors": File(548105171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
            **_TOKENIZER,
        },
    ),
    "gpt2-medium": Known(
        354_823_168,
        1_519_984_962,
        "OpenAI's GPT-2, medium",
        "openai-community/gpt2-medium",
        files={
            "model.safetensors": File(1519984962, "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd"),
        },
    ),
    "gpt2-large": Known(
        774_030_080,
        3_247_159_078,
        "OpenAI's GPT-2, large",
        "openai-community/gpt2-large",
        "32b71b12589c2f8d625668d2335a01cac3249519",
        {
            "config.json": File(666, "7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170"),
            "model.safetensors": File(None, "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
        },
    ),
    "gpt2-xl": Known(
        1_557_611_200,
        6_431_829_962,
        "OpenAI's GPT-2, the largest",
        "openai-community/gpt2-xl",
        "15ea56dee5df4983c59b2538573817e1667135e2",
        {
            "config.json": File(689, "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a"),
            "generation_config.json": File(124, "b90eadacf585a743a30ea51e8b5c88b8d282a2a34dc0c7e556d0987cdbd68805"),
            "model.safetensors": File(None, "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"),
            **_TOKENIZER,
        },
    ),
    "distilgpt2": Known(
        81_912_576,
        352_824_413,
        "gpt2 distilled into 6 layers",
        "distilbert/distilgpt2",
        "2290a62682d06624634c1f46a6ad5be0f47f38aa",
        {
            "config.json": File(762, "4ec5947c1d59fee6212cdf3b0ec1a53eac02092554c5ff0a733488cbd2c64f3a"),
            "model.safetensors": File(352824413, "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b"),
        },
    ),
    "dialogpt-small": Known(124_439_808, 351_000_000, "small, trained on dialogues", "microsoft/DialoGPT-small"),
    "dialogpt-medium": Known(354_823_168, 863_000_000, "medium, trained on dialogues", "microsoft/DialoGPT-medium"),
    "dialogpt-large": Known(774_030_080, 1_750_000_000, "large, trained on dialogues", "microsoft/DialoGPT-large"),
    "124M": Known(
        124_439_808,
        497_759_232,
        "gpt2 as OpenAI published it, for TensorFlow",
        revision="124M",
        files={
            "hparams.json": File(90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
            "model.ckpt.index": File(5215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
            "model.ckpt.data-00000-of-00001": File(
                497759232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"
            ),
            "encoder.json": _VOCAB,
            "vocab.bpe": _MERGES,
        },
    ),
    # Of the larger ones no hash was seen: OpenAI's server sends the MD5 of each file.
    "355M": Known(354_823_168, 1_419_292_672, "gpt2-medium as OpenAI published it", revision="355M"),
    "774M": Known(774_030_080, 3_096_120_320, "gpt2-large as OpenAI published it", revision="774M"),
    "1558M": Known(1_557_611_200, 6_230_444_800, "gpt2-xl as OpenAI published it", revision="1558M"),
}


class Source(NamedTuple):
    """Where a checkpoint is fetched from."""

    repo: str  # "owner/name" on the Hub; "" for OpenAI's originals
    revision: str  # a branch, a tag or a commit; of the originals the size: "124M"
    files: Mapping[str, File]  # what is known of its files beforehand


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


def _check_revision(revision: str) -> str:
    """Return a revision. Raises DownloadError for what can't be one."""
    if re.fullmatch(r"[\w./+-]+", revision, re.ASCII) and ".." not in revision and not revision.startswith("/"):
        return revision
    raise DownloadError(
        f"{revision!r:.200} is no revision: expected a branch, a tag or a commit, as in owner/name@main"
    )


def choose_files(names: Iterable[str], model: str) -> list[str]:
    """Choose from a repository the files that are needed, the weights last: the first of WEIGHTS.

    Of an adapter its two files are needed, and the weights of its base where they lie beside it.
    Raises DownloadError where there is no config.json, or no weights that numgpt reads; `model` is named in it, and
    where that is known what the weights are.

    >>> choose_files(["pytorch_model.bin", "model.safetensors", "../x", "config.json", "tf_model.h5"], "owner/name")
    ['config.json', 'model.safetensors']
    >>> choose_files(["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"], "owner/name")
    ['tokenizer.json', 'adapter_config.json', 'adapter_model.safetensors']
    """
    names = set(names)
    weights = [file for file in WEIGHTS if file in names][:1]
    adapter = [file for file in adapters.WEIGHTS if file in names][:1]
    if adapter and adapters.CONFIG in names:
        adapter = [adapters.CONFIG, *adapter]
        weights = weights if "config.json" in names else []
    elif not weights or "config.json" not in names:
        if not weights:
            _say_what_is_there(model, names)
        lacks = WEIGHTS[0] if "config.json" in names else "config.json"
        single = ", ".join(file for file in WEIGHTS if not file.endswith(".json"))
        raise DownloadError(
            f"{model}: has no {lacks}, expected config.json and one of {single}, or the .index.json of one: choose "
            f"another model or revision"
        )
    return [file for file in SMALL_FILES if file in names] + adapter + weights


def _say_what_is_there(model: str, names: Iterable[str]) -> None:
    """Raise DownloadError where the weights of a repository are known to be what numgpt does not read."""
    try:
        refuse_names(model, sorted(names))
    except CheckpointError as error:
        raise DownloadError(str(error)) from None
