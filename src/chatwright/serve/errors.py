"""Errors as OpenAI's clients expect them: one JSON shape for every refusal. No traceback, no path, no secret."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_TAGS = frozenset({"a_rating", "a_choice", "a_score"})  # steps of a path that name a shape, not a field
_PLACES = frozenset({"body", "query", "path", "header"})


class ApiError(Exception):
    """A refusal on its way to the client.

    Args:
        status: the HTTP status.
        message: a sentence for a person.
        code: a word for a program.
        param: the field at fault, if one is.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def tell_in_one_shape(app: FastAPI) -> None:
    """Have an application answer every refusal and every failure of its own with such an error."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:  # noqa: ARG001 - uvicorn logs it with its traceback
        return ApiError(500, "the server failed; its log has the cause", code="internal_error").response()


def _invalid(error: RequestValidationError) -> ApiError:
    """All problems of a request in one sentence each; the first one's field is `param`."""
    sentences: list[str] = []
    for detail in error.errors()[:10]:
        path = ".".join(str(step) for step in detail["loc"] if step not in _TAGS | _PLACES)
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = "this field is not known here"
        sentences.append(f"`{path or 'body'}`: {message}")
    first = next((str(step) for step in error.errors()[0]["loc"] if step not in _TAGS | _PLACES), None)
    unknown = error.errors()[0]["type"] == "extra_forbidden"
    return ApiError(
        400,
        _sound("; ".join(sentences)),
        code="unknown_parameter" if unknown else "invalid_value",
        param=first and _sound(first),
    )


def _sound(text: str) -> str:
    """Text from a request as it may be sent back: lone surrogates replaced, cut to a fair length."""
    return text.encode(errors="replace").decode()[:1000]
