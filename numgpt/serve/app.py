"""The routes: from a request to the engine, and back as an answer or a stream of events."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from numgpt.decoding.rules import check_rules
from numgpt.errors import TokenError
from numgpt.model import Model, tokenizer_of
from numgpt.pages.explanation import Explanation, explain
from numgpt.serve import fields
from numgpt.serve.answers import Answer, Choice, Part, is_empty, join, spelled
from numgpt.serve.engine import IS_CLOSING, IS_FULL, Busy, Engine, News, Text
from numgpt.serve.fields import Asked, Refused, value_of
from numgpt.serve.guard import Access, Gone, Guard, Receive, Scope, Send, body_of, content_of, refusal, refused_for
from numgpt.serve.page import page_of

LONGEST_EXPLAINED = 512  # tokens: a page shows all pairs of them
T = TypeVar("T")


class Mailbox:
    """What comes of the texts of one request, for the task that answers it."""

    def __init__(self, asked: Asked, server: "Server") -> None:
        self.engine = server.engine
        texts = range(len(asked.prompts) * asked.n)
        self.choices = [Choice(number, asked, server.tokenizer, listener=self) for number in texts]
        self.open = len(self.choices)  # how many have not ended
        self._parts: list[Part] = []
        self._error: Exception | None = None
        self._came = asyncio.Event()
        for choice in self.choices:  # those of which there is nothing to compute
            if not asked.rules.max_new_tokens and not choice.text.scores_prompt:
                self.put(choice, News(finish_reason="length"))
        self.engine.submit([choice.text for choice in self.choices] if self.open else [])

    @property
    def is_open(self) -> bool:
        """Whether something is to come."""
        return bool(self.open or self._parts)

    def put(self, choice: Choice, news: News) -> None:
        """Take what came of a text."""
        self._error = self._error or news.error
        self._parts.append(choice.hear(news))
        self.open -= news.is_last
        self._came.set()

    async def take(self) -> list[Part]:
        """Return what has come since the last time; wait until something has. Raises what ended a text."""
        await self._came.wait()
        self._came.clear()
        if self._error:
            raise self._error
        parts, self._parts = self._parts, []
        return parts

    def close(self) -> None:
        """Let all texts leave the engine."""
        self.engine.forget(choice.text for choice in self.choices)


class Server:
    """A model behind an API: what its routes have in common.

    name     what the model is called
    options  of `generate`, for all clients: cache_dtype, watermark, green_list
    limits   those of Engine
    Raises OptionError for an option that is none.
    """

    def __init__(self, model: Model, name: str, options: Mapping[str, Any] = {}, **limits: Any) -> None:
        self.model, self.name, self.tokenizer, self.started = model, name, tokenizer_of(model), int(time.time())
        check_rules(model.config, max_new_tokens=0, **options)
        self.options = options
        self.page, self.policy = page_of(name)
        self.explaining: asyncio.Future[Explanation] | None = None
        self.engine = Engine(model, self._tell_from_thread, **limits)

    def app(self, access: Access) -> Starlette:
        """Return the application, with its guard."""

        @asynccontextmanager
        async def living(_: Starlette) -> AsyncIterator[None]:
            self.loop = asyncio.get_running_loop()
            yield
            self.engine.stop()

        def post(path: str, answer: Callable[[Request, Part], Coroutine[Any, Any, Response]]) -> Route:
            async def endpoint(request: Request) -> Response:
                return await answer(request, fields.parse(await body_of(request.receive)))

            return Route(path, endpoint, methods=["POST"])

        routes = [
            Route("/", self.show_page),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.one_model),
            Route("/tokenizer_info", self.tokenizer_info),
            post("/v1/completions", self.complete),
            post("/v1/chat/completions", self.no_chat),
            post("/tokenize", self.tokenize),
            post("/detokenize", self.detokenize),
            post("/explain", self.explain),
        ]
        guarded = [Middleware(Guard, access=access, paths=frozenset(route.path for route in routes))]
        handlers: dict[Any, Any] = {HTTPException: on_http}
        app = Starlette(routes=routes, middleware=guarded, exception_handlers=handlers, lifespan=living)
        app.router.redirect_slashes = False
        return app

    def _tell_from_thread(self, all_news: Sequence[tuple[Text, News]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self.loop.call_soon_threadsafe(self._tell, all_news)

    def _tell(self, all_news: Sequence[tuple[Text, News]]) -> None:
        for text, news in all_news:
            choice: Choice = text.listener
            choice.listener.put(choice, news)

    def close(self, grace: float) -> None:
        """Take no further texts, and after so many seconds turn away those that run, and who waits for a page."""
        self.engine.drain()
        self.loop.call_later(grace, self.engine.stop)
        if self.explaining and not self.explaining.done():
            self.loop.call_later(grace, settle, self.explaining, None, Busy(IS_CLOSING))

    # ---- what is asked of the model

    async def complete(self, request: Request, body: Part) -> Response:
        """POST /v1/completions"""
        asked = await asyncio.to_thread(fields.asked_of, body, self.model, self.name, **self.options)
        answer, mailbox = Answer(self.name, asked), Mailbox(asked, self)
        texts, read = len(mailbox.choices), sum(map(len, asked.ids))
        request.scope["numgpt.log"] = f" texts={texts} prompt_tokens={read}"
        if asked.stream:
            return Events(mailbox, answer)

        async def whole() -> Response:
            wholes: dict[int, Part] = {}
            while mailbox.is_open:
                for part in await mailbox.take():
                    i = part["index"]
                    wholes[i] = join(wholes[i], part) if i in wholes else part
            return JSONResponse(answer.of([wholes[i] for i in range(texts)], answer.usage(mailbox.choices)))

        try:
            return await unless_gone(request.receive, whole())
        finally:
            mailbox.close()

    async def no_chat(self, request: Request, body: Part) -> Response:
        """POST /v1/chat/completions"""
        raise Refused(400, f"messages is not offered here: {fields.NOT_OFFERED['messages']}", "messages")

    async def tokenize(self, request: Request, body: Part) -> Response:
        """POST /tokenize. "<|endoftext|>" is the token unless allow_special is false, as other servers have it."""
        known = ("model", "prompt", "allow_special", "add_special_tokens", "return_token_strs")
        fields.check_fields(body, known, "/tokenize")
        fields.check_model(body, self.name)
        for name in known[3:]:  # GPT-2 adds none, so that either is right
            value_of(body, name, None, fields.is_bool, "true or false")
        special = value_of(body, "allow_special", True, fields.is_bool, "true or false")
        text = value_of(body, "prompt", None, lambda x: isinstance(x, str), "a text")
        if text is None:
            raise Refused(400, "prompt is missing: expected a text", "prompt")
        try:
            ids = await asyncio.to_thread(self.tokenizer.encode, text, special)
        except TokenError as error:
            raise Refused(400, f"prompt: {error}", "prompt") from None
        found: Part = {"count": len(ids), "max_model_len": self.model.config.n_ctx, "tokens": ids, "token_strs": None}
        if body.get("return_token_strs"):
            found["token_strs"] = [spelled(i, self.tokenizer) for i in ids]
        return JSONResponse(found)

    async def detokenize(self, request: Request, body: Part) -> Response:
        """POST /detokenize"""
        fields.check_fields(body, ("model", "tokens"), "/detokenize")
        fields.check_model(body, self.name)
        ids = value_of(body, "tokens", None, lambda x: isinstance(x, list), "a list of ids")
        if ids is None:
            raise Refused(400, "tokens is missing: expected a list of ids", "tokens")
        try:
            return JSONResponse({"prompt": self.tokenizer.decode(ids)})
        except TokenError as error:
            raise Refused(400, f"tokens: {error}", "tokens") from None

    async def explain(self, request: Request, body: Part) -> Response:
        """POST /explain: the page that explains a text."""
        fields.check_fields(body, ("model", "prompt", "allow_special"), "/explain")
        fields.check_model(body, self.name)
        special = value_of(body, "allow_special", False, fields.is_bool, "true or false")
        _, [ids, *more] = fields.prompts_of(body.get("prompt"), self.model, self.tokenizer, special)
        if more or len(ids) > LONGEST_EXPLAINED:
            message = f"prompt is too much for a page, expected one text of at most {LONGEST_EXPLAINED} tokens"
            raise Refused(400, message, "prompt")
        if self.explaining and not self.explaining.done():
            raise Refused(503, IS_FULL)
        self.explaining = in_thread(lambda: explain(self.model, ids, self.name))

        async def page() -> Response:  # it is made also where nobody waits for it any more
            assert self.explaining is not None
            return HTMLResponse((await asyncio.shield(self.explaining)).html)

        return await unless_gone(request.receive, page())

    # ---- what is asked of the server

    async def show_page(self, request: Request) -> Response:
        """GET /"""
        return HTMLResponse(self.page, headers={"content-security-policy": self.policy})

    async def health(self, request: Request) -> Response:
        """GET /health"""
        return JSONResponse({"status": "ok", "running": len(self.engine.running), "waiting": len(self.engine.waiting)})

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self.about_model()]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/NAME"""
        fields.check_model({"model": request.path_params["name"]}, self.name)
        return JSONResponse(self.about_model())

    def about_model(self) -> Part:
        """Return what the API says of a model."""
        about = {"id": self.name, "object": "model", "created": self.started, "owned_by": "numgpt"}
        return {**about, "max_model_len": self.model.config.n_ctx}

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info: the special tokens, as evaluation harnesses ask for them."""
        config = self.model.config
        end = None if config.eos_token_id is None else self.tokenizer.decode([config.eos_token_id])
        start = None if config.start_id is None else self.tokenizer.decode([config.start_id])
        tokens = {"eos_token": end, "bos_token": start, "unk_token": end, "pad_token": None}
        about = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.n_ctx, "chat_template": None}
        return JSONResponse({**about, **tokens})


class Events(Response):
    """An answer as server-sent events: each part as it comes, and [DONE]."""

    def __init__(self, mailbox: Mailbox, answer: Answer) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.mailbox, self.answer = mailbox, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self.stream(send))
        finally:
            self.mailbox.close()

    async def stream(self, send: Send) -> None:
        """Send the events. An error is one too, the last."""
        mailbox, answer = self.mailbox, self.answer

        async def send_body(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while mailbox.is_open:
                parts = await mailbox.take()
                if body := b"".join(event(answer.of([part])) for part in parts if not is_empty(part)):
                    await send_body(body)
            if answer.asked.include_usage:
                await send_body(event(answer.of([], answer.usage(mailbox.choices))))
            last = b"data: [DONE]\n\n"
        except Exception as error:
            last = event(content_of(refused_for(error)))
        await send_body(last, more=False)


def event(content: Part) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Do some work in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, future, result, error)

    threading.Thread(target=run, name="numgpt-explain", daemon=True).start()
    return future


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its result or its error, unless it has one."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        future.exception()  # it is known now, also where nobody waits for it


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, unless the client goes away first. Raises Gone then, and what the work raises."""

    async def leaving() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(work), asyncio.ensure_future(leaving())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done() or tasks[0].cancelled():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def on_http(request: Request, error: Exception) -> Response:
    """What Starlette's routes refuse: a path that is not there, or another method."""
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing at this address", 405: "this address takes another method"}
    answer = refusal(Refused(error.status_code, words.get(error.status_code, error.detail)))
    answer.headers.update(error.headers or {})
    return answer
