"""Errors as problem details (RFC 9457), with the one-line messages of the command."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from inference.web.jobs.queue import QueueFullError
from preprocessing.errors import UsageError, Wav2LipError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(default="about:blank", description="the kind of problem; about:blank: the status says it")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="one line that says what is wrong and what would be right")


RESPONSES: dict[int | str, dict] = {
    "4XX": {"model": Problem, "description": "A problem, as application/problem+json"},
}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A response with problem details; `detail` is put on one line."""
    body = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=" ".join(detail.split()))
    return JSONResponse(body.model_dump(), status, dict(headers or {}), MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Wav2LipError, _our_error)
    app.add_exception_handler(Exception, _internal_error)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return problem(422, f"{'.'.join(map(str, first['loc'][1:])) or 'request'}: {first['msg']}")


def _our_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, QueueFullError):
        return problem(503, str(error), {"Retry-After": "60"})
    return problem(400 if isinstance(error, UsageError) else 422, str(error))


def _internal_error(request: Request, error: Exception) -> JSONResponse:
    _log.error("internal error", exc_info=error)
    return problem(500, "internal error: the service's log has the details")
