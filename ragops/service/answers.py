"""What is said when something is wrong: one form for every error, and a status by its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ragops.errors import MissingExtra, RagopsError, UsageError

AGAIN = "Try again in a moment; if it stays so, the operator finds the reason in the service's log."


class Refused(Exception):
    """A request that gets no answer. `reason` names it in the metrics."""

    def __init__(
        self, status: int, message: str, hint: str = "", *, field: str | None = None, reason: str | None = None,
        headers: Mapping[str, str] | None = None, again: float | None = None,
    ) -> None:  # fmt: skip
        """`again`: seconds after which to try again."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.field = field
        self.reason = reason
        self.headers = dict(headers or {})
        if again is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(again)))

    def response(self) -> Response:
        error = {"message": self.message, "hint": self.hint}
        if self.field is not None:
            error["field"] = self.field
        return json({"error": error}, self.status, self.headers)


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, dict(headers or {}), "application/json")


def unfit(error: UsageError, field: str | None = None) -> Refused:
    """What the library refuses of a request."""
    if isinstance(error, MissingExtra):
        return Refused(501, error.message, "The operator installs it: " + error.hint, field=field)
    return Refused(422, error.message, error.hint, field=field)


def failed(error: RagopsError) -> Refused:
    """What is wrong on this side: paths and reasons are the operator's, in the log, not the client's."""
    return Refused(503, "the knowledge base cannot answer now", AGAIN, reason="failed", again=5)


def invalid(error: RequestValidationError) -> Refused:
    """The first thing that is wrong with a request, with the field's name."""
    errors: Sequence[Mapping[str, Any]] = error.errors()
    found: Mapping[str, Any] = errors[0]
    place = [str(part) for part in found["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(place) or None
    kind = found["type"]
    if kind == "extra_forbidden":
        return Refused(
            422, f"there is no field '{field}'", "See /openapi.json for the fields of this route.", field=field
        )
    if kind == "missing":
        what = f"the field '{field}' is missing" if field else "the request has no body"
        return Refused(422, what, "See /openapi.json for an example.", field=field)
    if kind == "json_invalid":
        return Refused(422, "the body is not valid JSON", str(found.get("ctx", {}).get("error", "")))
    if kind == "model_attributes_type" and not place:
        return Refused(
            422, "the body is not a JSON object", "Send one, with the header Content-Type: application/json."
        )
    message = str(found["msg"])
    said = message[:1].lower() + message[1:]
    more = f"and {len(errors) - 1} more" if len(errors) > 1 else ""
    return Refused(422, f"{field}: {said}" if field else said, more, field=field)


def plain(error: HTTPException) -> Refused:
    """Unknown paths and methods."""
    hints = {404: "See /openapi.json for the routes.", 405: "See /openapi.json for the methods."}
    return Refused(
        error.status_code, str(error.detail).lower(), hints.get(error.status_code, ""), headers=error.headers
    )
