"""numgpt as a model of EleutherAI's lm-evaluation-harness. Importing this module registers it there, as "numgpt".

What is cut where (the tokens of a context and its continuation, the windows of a long text, the end of a generated one)
is the harness's own, so that its numbers are those of its `hf` model. The extra `eval` brings what it needs.

    import numgpt.measure.harness
    lm_eval.simple_evaluate("numgpt", {"model": "gpt2"}, tasks=["lambada_openai"])
"""

import os
from collections.abc import Sequence
from typing import Any

from numgpt.decoding.batch import complete_batch
from numgpt.errors import OptionError
from numgpt.hub.loading import load
from numgpt.measure.endings import BATCH_SIZE, score_endings
from numgpt.model import Model, tokenizer_of

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError:
    raise OptionError('evaluation needs lm-evaluation-harness, 0.4.13 or newer: pip install "numgpt[eval]"') from None

MAX_GEN_TOKS = 256  # of a task that does not say how many, as in `hf`

Likelihood = tuple[float, bool]


@register_model("numgpt")
class Harness(TemplateLM):
    """A model for the harness: log-likelihoods, those of whole texts, and texts up to a string.

    model       what `numgpt.load` takes, or what it returned
    batch_size  how many texts go through the model side by side; "auto" is 8
    device      passed over, since the harness says "cuda:0" where nobody asks for another: numgpt runs on the CPU
    how         what else `numgpt.load` takes: dtype, weights, base, n_head and the like
    Raises what `numgpt.load` raises; TokenError without a tokenizer; OptionError without an end-of-text id, with which
    a text begins that has nothing before it, and for a batch size that is none.

    >>> harness = Harness("storyteller")
    >>> requests = [Instance("loglikelihood", {}, ("Once upon a", ending), 0) for ending in (" time", " king")]
    >>> [greedy for _, greedy in harness.loglikelihood(requests, disable_tqdm=True)]
    [True, False]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model = "storyteller",
        batch_size: int | str = BATCH_SIZE,
        device: str | None = None,
        **how: Any,
    ) -> None:
        super().__init__()
        automatic = str(batch_size).partition(":")[0] == "auto"
        if not automatic and not (str(batch_size).isdecimal() and int(batch_size)):
            raise OptionError(f"batch_size is {batch_size!r}, expected an integer of 1 or more, or auto")
        self.batch_size = BATCH_SIZE if automatic else int(batch_size)
        self.model = model if isinstance(model, Model) else load(model, **how)
        self._name = "numgpt" if isinstance(model, Model) else os.fspath(model)
        self._tokenizer = tokenizer_of(self.model)
        if self.model.config.start_id is None:
            raise OptionError("the model has no end-of-text id, which stands before each text: say eos_token_id=N")
        self._start_id: int = self.model.config.start_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells its stored requests apart by."""
        return self._name.replace("/", "__")

    @property
    def max_length(self) -> int:
        """The context of the model."""
        return self.model.config.n_ctx

    @property
    def eot_token_id(self) -> int | None:
        """The id that ends a text."""
        return self.model.config.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text that has nothing before it."""
        return self._start_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Text to ids, in which "<|endoftext|>" is the token, as it is to the tokenizers of Transformers.

        add_special_tokens  put the tokens around it that go around each text; GPT-2's has none. None: unless the text
                            begins with the one that begins a text
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._tokenizer.decode([self._start_id]))
        encode = self._tokenizer.encode if add_special_tokens else self._tokenizer.encode_part
        return encode(string, allow_special=True)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[Likelihood]:
        """The log-likelihood of each continuation, and whether it is the greedy one.

        requests  of each its texts, where the harness is to remember the answer, and the ids of the two
        """
        answers: dict[int, Likelihood] = {}
        found = score_endings(self.model, [(before, ending) for _, before, ending in requests], self.batch_size)
        for number, ending in tqdm(found, "Running loglikelihood requests", len(requests), disable=disable_tqdm):
            answers[number] = tuple(ending)
            if requests[number][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[number][0], answers[number])
        return [answers[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each in windows of the context that are put side by side."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (log_prob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += log_prob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of some strings.

        What a task may ask for beside `until`, `max_gen_toks`, `do_sample` and `temperature` are the options of
        `numgpt.generate`. Texts are sampled with seed 0 unless it gives another, and each has a stream of its own.
        Raises OptionError for an option that is none or out of its range.
        """
        texts = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        with tqdm(desc="Running generate_until requests", total=len(requests), disable=disable_tqdm) as bar:
            for numbers in alike.values():
                until, options = self._options(requests[numbers[0]].args[1])
                room = self.max_length - options["max_new_tokens"]
                prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
                for found in complete_batch(
                    [ids or [self._start_id] for ids in prompts],
                    self.model.params,
                    self.model.config,
                    stop_strings=until,
                    tokenizer=self._tokenizer,
                    batch_size=self.batch_size,
                    **options,
                ):
                    number = numbers[found.number]
                    special = self._tokenizer.special_tokens.values()
                    text = self._tokenizer.decode(i for i in found.ids if i not in special)
                    texts[number] = postprocess_generated_text(text, until, think_end_token=None)
                    self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                    bar.update()
        return texts

    def _options(self, asked: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Return the strings at which to stop, and the options of `generate`, for what a task asks for."""
        options = dict(normalize_gen_kwargs(asked, MAX_GEN_TOKS))
        end = self.model.config.eos_token_id
        until = handle_stop_sequences(options.pop("until"), None if end is None else self._tokenizer.decode([end]))
        length, sampled = options.pop("max_gen_toks"), options.pop("do_sample")
        if length >= self.max_length:
            expected = f"at most {self.max_length - 1}, since the context is {self.max_length} and has to hold a prompt"
            raise OptionError(f"max_gen_toks is {length}, expected {expected}")
        temperature = options.pop("temperature", 0)
        if sampled and not temperature:
            raise OptionError("do_sample is True, but temperature is 0: give a temperature, or leave out do_sample")
        return until, {"seed": 0, "max_new_tokens": length, "temperature": temperature, **options}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Raise OptionError: GPT-2 has no template."""
        raise OptionError("GPT-2 has no chat template: leave out apply_chat_template")
