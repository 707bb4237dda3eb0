"""What a client asks for: the body of a request, checked field by field.

Nothing is passed over in silence: a field that is unknown, not offered, of the wrong type or out of its range is told
by its name. Names and meanings are those of OpenAI's completions, and those of `generate` for what OpenAI has not.
"""

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from numgpt.checks import check_ids, is_integer
from numgpt.decoding.rules import Rules, check_prompt, check_rules, random_seed
from numgpt.decoding.text import start_ids
from numgpt.errors import ContextError, NumgptError
from numgpt.model import Model, tokenizer_of
from numgpt.tokenizer import Tokenizer

MOST_TEXTS = 128  # prompts times n
MOST_TOKENS = 1 << 16  # these times max_tokens
MOST_LIKELIEST = 20
MOST_BIASES = 1024
MOST_STOPS, LONGEST_STOP = 16, 256  # and of banned texts
LONGEST_PATTERN = 256
CONTROLS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
COMPLETIONS = (  # the fields of a completion
    *("model", "prompt", "max_tokens", *CONTROLS, "n", "stop", "seed", "echo", "logprobs", "logit_bias"),
    *("stream", "stream_options", "allow_special", "return_token_ids", "guidance_scale", "negative_prompt"),
    *("regex", "ban"),
)
NOT_OFFERED = {
    "best_of": "ask for n texts with logprobs, and choose",
    "suffix": "GPT-2 writes forwards only",
    "messages": "GPT-2 has no format of a chat: POST a prompt to /v1/completions",
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), "GPT-2 knows of no tools"),
    "response_format": "a form to keep is asked for as regex",
    "user": "no record is kept of users",
}
ELSEWHERE = {  # what others call a field -> what it is called here
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "top_logprobs": "logprobs",
    "repeat_penalty": "repetition_penalty",
    "input": "prompt",
}


class Refused(Exception):
    """A request that is not served: its status, what to tell, and the field that it is about."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class Asked(NamedTuple):
    """What a completion is to be."""

    prompts: list[str]  # as they were given, or the text of their ids
    ids: list[list[int]]  # of each prompt
    rules: Rules
    n: int  # texts of each prompt
    echo: bool
    logprobs: int | None
    stream: bool
    include_usage: bool
    return_token_ids: bool


def parse(body: bytes) -> dict[str, Any]:
    """Return the object that a body holds as JSON.

    Raises Refused for what is no JSON in UTF-8, for NaN and infinities, which JSON has not, and for a field that is
    there twice.

    >>> parse(b'{"prompt": "a", "n": 2}')
    {'prompt': 'a', 'n': 2}
    """

    def no_constant(name: str) -> Any:
        raise Refused(400, f"the body has {name}, which is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise Refused(400, f"{twice!r:.80} is there twice: which one counts?", field_of(twice))
        return found

    try:
        found = json.loads(body.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(400, f"the body is no JSON in UTF-8: {reason:.200}") from None
    if not isinstance(found, dict):
        raise Refused(400, f"the body is {kind_of(found)}, expected an object with fields")
    return found


def field_of(name: str) -> str | None:
    """Return the name if it is that of a field: what a client invents is not said back to programs."""
    return name if name in COMPLETIONS or name in NOT_OFFERED else None


def kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "null")


def check_fields(body: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    """Raise Refused for the first field that is unknown or not offered. One that is null counts as not given."""
    for name, value in body.items():
        if name in known:
            continue
        if name in NOT_OFFERED and "prompt" in known:
            if value is None:
                continue
            raise Refused(400, f"{name} is not offered here: {NOT_OFFERED[name]}", name)
        near = [ELSEWHERE[name]] if ELSEWHERE.get(name) in known else get_close_matches(name[:80], known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise Refused(400, f"{name!r:.80} is no field of {path}: {remedy}", name[:80])


def value_of(body: Mapping[str, Any], name: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
    """Return the value of a field, or the default where it is not there or null. Raises Refused unless it fits."""
    value = body.get(name)
    if value is None:
        return default
    if not fits(value):
        raise Refused(400, f"{name} is {shown(value)}, expected {expected}", name)
    return value


def shown(value: Any) -> str:
    """Return a value for a message: a short one as JSON has it, of others what they are."""
    return json.dumps(value) if isinstance(value, (bool, int, float, str)) and len(str(value)) < 40 else kind_of(value)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def count_from(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: is_integer(value) and least <= value <= most


def asked_of(body: Mapping[str, Any], model: Model, name: str, **of_server: Any) -> Asked:
    """Return what the body of a request for completions asks for.

    name       what the model is called: another one is not found
    of_server  the options of `generate` that the server sets, for all clients
    Raises Refused with the name of the field that is wrong.
    """
    check_fields(body, COMPLETIONS, "/v1/completions")
    check_model(body, name)
    tokenizer = tokenizer_of(model)
    special = value_of(body, "allow_special", False, is_bool, "true or false")
    prompts, ids = prompts_of(body.get("prompt"), model, tokenizer, special)
    most = MOST_TEXTS // len(prompts)
    n = value_of(body, "n", 1, count_from(1, most), f"an integer from 1 to {most}: at most {MOST_TEXTS} texts at once")
    stream = value_of(body, "stream", False, is_bool, "true or false")
    options = value_of(body, "stream_options", {}, lambda x: isinstance(x, dict), "an object")
    if options and not stream:
        raise Refused(400, "stream_options goes with stream: true", "stream_options")
    check_fields(options, ("include_usage",), "stream_options")
    rules, texts = rules_of(body, model, **of_server), len(prompts) * n
    if rules.max_new_tokens * texts > MOST_TOKENS:
        expected = f"at most {MOST_TOKENS // texts} for {texts} texts"
        raise Refused(400, f"max_tokens is {rules.max_new_tokens}, expected {expected}", "max_tokens")
    expected = f"an integer from 0 to {MOST_LIKELIEST}"
    return Asked(
        prompts,
        ids,
        rules,
        n,
        value_of(body, "echo", False, is_bool, "true or false"),
        value_of(body, "logprobs", None, count_from(0, MOST_LIKELIEST), expected),
        stream,
        value_of(options, "include_usage", False, is_bool, "true or false"),
        value_of(body, "return_token_ids", False, is_bool, "true or false"),
    )


def check_model(body: Mapping[str, Any], name: str) -> None:
    """Raise Refused where another model than this one is asked for."""
    other = value_of(body, "model", name, lambda x: isinstance(x, str), "the name of the model, a text")
    if other != name:
        raise Refused(404, f"model {shown(other)} is not here: this is {name!r} (GET /v1/models)", "model")


def prompts_of(prompt: Any, model: Model, tokenizer: Tokenizer, special: bool) -> tuple[list[str], list[list[int]]]:
    """Return the texts of the prompts and their ids. A prompt is a text, or ids; there may be a list of either.

    special  whether "<|endoftext|>" in a text is the token
    """
    expected = "a text, a list of ids, or a list of texts or of lists of ids"
    if prompt is None:
        raise Refused(400, f"prompt is missing: expected {expected}", "prompt")
    single = isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and is_integer(prompt[0]))
    several = [prompt] if single else prompt
    if not isinstance(several, list) or not several:
        raise Refused(
            400, f"prompt is {kind_of(prompt)}{' of nothing' * (prompt == [])}, expected {expected}", "prompt"
        )
    if len(several) > MOST_TEXTS:
        raise Refused(400, f"prompt has {len(several)} prompts, expected at most {MOST_TEXTS}", "prompt")
    texts, ids = [], []
    for number, one in enumerate(several):
        where = "prompt" if single else f"prompt[{number}]"
        if not isinstance(one, (str, list)):
            raise Refused(400, f"{where} is {kind_of(one)}, expected a text or a list of ids", "prompt")
        try:
            if isinstance(one, str):
                check_length(one, model, tokenizer)
                found = start_ids(model, tokenizer.encode(one, allow_special=special))
                text = one
            else:
                found = check_ids(one, model.config.n_vocab).tolist()
                text = tokenizer.decode(found)
            ids.append(check_prompt(found, model.config, name=where))
        except NumgptError as error:
            message = str(error)
            raise Refused(400, message if message.startswith(where) else f"{where}: {message}", "prompt") from None
        texts.append(text)
    return texts, ids


def check_length(text: str, model: Model, tokenizer: Tokenizer) -> None:
    """Raise ContextError for a text that is too long however it is cut, so that nobody waits until it is."""
    most = model.config.n_ctx * longest_piece(tokenizer)
    if len(text) > most:
        raise ContextError(f"{len(text)} characters, but the context of this model has no more than {most} bytes")


@cache
def longest_piece(tokenizer: Tokenizer) -> int:
    """Return how many bytes the longest token has."""
    return max(map(len, tokenizer.pieces(range(len(tokenizer)))))


def rules_of(body: Mapping[str, Any], model: Model, **of_server: Any) -> Rules:
    """Return how the texts go on and where they end. The defaults are OpenAI's: 16 tokens of the model's own choice."""
    stops, banned = texts_of(body, "stop"), texts_of(body, "ban")
    expected = f"a pattern of 1 to {LONGEST_PATTERN} characters"
    pattern = value_of(body, "regex", None, lambda x: isinstance(x, str) and 0 < len(x) <= LONGEST_PATTERN, expected)
    context = model.config.n_ctx
    expected = f"an integer from 0 to {context}, the context"
    options = {name: body[name] for name in (*CONTROLS, "guidance_scale") if body.get(name) is not None}
    negative = value_of(body, "negative_prompt", None, lambda x: isinstance(x, str), "a text")
    if negative is not None:
        check_length(negative, model, tokenizer_of(model))
    try:
        return check_rules(
            model.config,
            max_new_tokens=value_of(body, "max_tokens", min(16, context), count_from(0, context), expected),
            seed=value_of(body, "seed", random_seed(), count_from(0, 2**64 - 1), "an integer from 0 to 2^64 - 1"),
            stop_strings=stops,
            tokenizer=model.tokenizer,
            logit_bias=bias_of(body),
            ban=banned,
            regex=pattern,
            negative_prompt=negative,
            **of_server,
            **options,
        )
    except (NumgptError, UnicodeEncodeError) as error:  # the latter: a lone surrogate in stop
        message = str(error).replace("None", "null")
        names = "regex", "negative_prompt", "guidance_scale", "logit_bias", *CONTROLS, "ban"
        field = next((name for name in names if name in message), "stop")
        raise Refused(400, message if field in message else f"{field}: {message}", field) from None


def texts_of(body: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of a field that takes one or several."""
    given = value_of(body, name, [], lambda x: isinstance(x, (str, list)), "a text, or a list of texts")
    texts = [given] if isinstance(given, str) else given
    if len(texts) > MOST_STOPS or not all(isinstance(text, str) and 0 < len(text) <= LONGEST_STOP for text in texts):
        expected = f"at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
        raise Refused(400, f"{name} is {shown(given)}, expected {expected}", name)
    return texts


def bias_of(body: Mapping[str, Any]) -> dict[int, float] | None:
    """Return the numbers to add to logits, by id. The keys of an object of JSON are texts."""
    expected = f"an object of at most {MOST_BIASES} ids with numbers from -100 to 100"
    bias = value_of(body, "logit_bias", None, lambda x: isinstance(x, dict) and len(x) <= MOST_BIASES, expected)
    if not bias:
        return None
    for key, value in bias.items():
        fits = key.isascii() and key.isdigit() and len(key) < 10
        if not fits or type(value) not in (int, float) or not -100 <= value <= 100:
            raise Refused(400, f"logit_bias has {key!r:.40}: {shown(value)}, expected {expected}", "logit_bias")
    return {int(key): value for key, value in bias.items()}
