"""What a client is told, in OpenAI's shape: texts part by part, or whole.

    news of a pass --Choice.hear--> a part of the text --> streamed as it is, or joined to the whole

A part has a piece of the text and the tokens that came, with their log-probabilities. They need not belong together: a
character may take several tokens, and what may become a stop string is held back.
"""

import codecs
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from numgpt.decoding.text import cut
from numgpt.serve.engine import News, Text, Token
from numgpt.serve.fields import Asked
from numgpt.tokenizer import Tokenizer

Part = dict[str, Any]


class Decoder:
    """Tokens to text, one after the other, as `decode_stream` has it. It knows how long the text is so far."""

    def __init__(self, tokenizer: Tokenizer, length: int = 0) -> None:
        self.tokenizer, self.length = tokenizer, length
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, i: int) -> str:
        """Return the characters that id i completes."""
        return self._counted(self._decoder.decode(self.tokenizer.pieces([i])[0]))

    def end(self) -> str:
        """Return what stands for a character that is not complete."""
        return self._counted(self._decoder.decode(b"", final=True))

    def _counted(self, text: str) -> str:
        self.length += len(text)
        return text


class Choice:
    """One of the texts that a request asked for, on its way to the client.

    number    which one: of prompt i, those from i n on
    listener  whoever passes the parts on
    """

    def __init__(self, number: int, asked: Asked, tokenizer: Tokenizer, listener: Any = None) -> None:
        self.number, self.asked, self.tokenizer, self.listener = number, asked, tokenizer, listener
        self.prompt = asked.prompts[number // asked.n]
        scores_prompt = asked.echo and asked.logprobs is not None
        rules, last = asked.rules, self.prompt.last
        if last:
            rules = rules._replace(controls=rules.controls._replace(begins_with=last))
        self.text = Text(self.prompt.ids, rules, number, asked.logprobs, scores_prompt, listener=self)
        self.count = 0  # of new tokens
        self._stops = [stop.decode() for stop in rules.stop_strings]
        self._is_new = True
        self._of_prompt, self._of_text = Decoder(tokenizer), Decoder(tokenizer, len(self.prompt.text) - len(last))
        self._again = len(last)  # characters that the prompt has already
        self._held = ""  # what may become a stop string

    def hear(self, news: News) -> Part:
        """Return the next part of the text."""
        asked, tokens, text = self.asked, [], ""
        for token in news.prompt:
            tokens.append((token, self._of_prompt.length))
            self._of_prompt.take(token.id)
        if news.token:
            self.count += 1
            tokens.append((news.token, self._of_text.length))
            if news.token.id not in asked.rules.stop_ids:
                text += self._of_text.take(news.token.id)
        if news.is_last:
            text += self._of_text.end()
        text, self._again = text[self._again :], max(self._again - len(text), 0)
        text, self._held, _ = cut(self._held + text, self._stops)
        if news.is_last:
            text, self._held = text + self._held, ""

        part: Part = {"index": self.number, "text": text, "logprobs": None}
        part["finish_reason"] = {"": None, "context": "length"}.get(news.finish_reason, news.finish_reason)
        if asked.logprobs is not None:
            part["logprobs"] = self._log_probs(tokens)
        if asked.return_token_ids:
            part["token_ids"] = [news.token.id] if news.token else []
        if self._is_new:
            self._is_new = False
            part["text"] = self.prompt.text * asked.echo + text
            if asked.return_token_ids:
                part["prompt_token_ids"] = self.text.ids
        return part

    def _log_probs(self, tokens: Sequence[tuple[Token, int]]) -> Part:
        """Return tokens as the API has them: each with its place in the text, and the likeliest there."""
        found: Part = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self.asked.return_token_ids:
            found["top_token_ids"] = []
        for token, offset in tokens:
            found["tokens"].append(spelled(token.id, self.tokenizer))
            found["token_logprobs"].append(token.log_prob)
            found["text_offset"].append(offset)
            top: dict[str, tuple[int, float]] = {}
            for i, log_prob in (*token.likeliest, (token.id, token.log_prob)):
                if log_prob is not None:
                    top.setdefault(spelled(i, self.tokenizer), (i, log_prob))
            found["top_logprobs"].append({word: log_prob for word, (_, log_prob) in top.items()} or None)
            if self.asked.return_token_ids:
                found["top_token_ids"].append([i for i, _ in top.values()])
        return found


def spelled(i: int, tokenizer: Tokenizer) -> str:
    r"""Return how the API spells a token: its text, or its bytes where they are a part of a character.

    >>> from numgpt.hub.loading import load_tokenizer
    >>> spelled(15496, load_tokenizer("gpt2")), spelled(12520, load_tokenizer("gpt2"))
    ('Hello', 'bytes: \\xf0\\x9f')
    """
    piece = tokenizer.pieces([i])[0]
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in piece)


def is_empty(part: Part) -> bool:
    """Whether a part tells nothing, so that it need not be sent."""
    told = part["text"] or part["finish_reason"] or part.get("token_ids") or part.get("prompt_token_ids")
    return not told and not (part["logprobs"] and part["logprobs"]["tokens"])


def join(whole: Part, part: Part) -> Part:
    """Add a part behind what is there of a text, in place, and return it."""
    whole["text"] += part["text"]
    whole["finish_reason"] = part["finish_reason"]
    if part["logprobs"] is not None:
        for name, values in part["logprobs"].items():
            whole["logprobs"][name] += values
    if "token_ids" in part:
        whole["token_ids"] += part["token_ids"]
    return whole


class Answer:
    """What all that is told of a request has in common."""

    def __init__(self, model: str, asked: Asked) -> None:
        self.asked = asked
        self.head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        self.head |= {"model": model, "seed": asked.rules.seed}

    def of(self, parts: Sequence[Part], usage: Part | None = None) -> Part:
        """Return the answer that has these parts, or wholes."""
        return {**self.head, "choices": parts, **({"usage": usage} if usage or self.asked.include_usage else {})}

    def usage(self, choices: Iterable[Choice]) -> Part:
        """Return how many tokens were read and made. A prompt counts once, however many texts are made of it."""
        read, made = sum(len(prompt.ids) for prompt in self.asked.prompts), sum(choice.count for choice in choices)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
