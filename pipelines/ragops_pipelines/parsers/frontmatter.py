"""The YAML or TOML block at the top of a Markdown file: metadata, not text."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from ragops.types import Scalar

_FENCED = re.compile(r"\A\ufeff?(---|\+\+\+)[ \t]*\n(.*?)(?:\n|(?<=\n))(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_LIMIT = 64 * 1024  # characters; longer ones are text that begins with a rule

FrontMatter = dict[str, Scalar | list[Scalar]]


def split(text: str) -> tuple[FrontMatter | None, str, str]:
    """(fields, raw block, rest). Fields are None where there is no block or it is not a mapping that can be read."""
    if not text.startswith(("---", "+++", "\ufeff---", "\ufeff+++")):
        return None, "", text
    match = _FENCED.match(text[:_LIMIT])
    if match is None:
        return None, "", text
    raw = match.group(2)
    loaded = _load_toml(raw) if match.group(1) == "+++" else _load_yaml(raw)
    if loaded is None:
        return None, raw, text[match.end() :]
    return _fields(loaded), raw, text[match.end() :]


def _load_yaml(raw: str) -> Mapping[Any, Any] | None:
    import yaml

    if not raw.strip():
        return {}
    try:
        value = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, ValueError, RecursionError):
        return None  # the caller keeps the block as text
    return value if isinstance(value, dict) else None


def _load_toml(raw: str) -> Mapping[Any, Any] | None:
    import tomllib

    try:
        return dict(tomllib.loads(raw))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _fields(loaded: Mapping[Any, Any]) -> FrontMatter:
    fields: FrontMatter = {}
    for key, value in loaded.items():
        name = str(key)
        if name in ("title", "tenant"):
            if (scalar := _scalar(value)) is not None:
                fields[name] = str(scalar)
        elif name == "groups":
            items: list[Any] = value if isinstance(value, list) else str(value or "").split(",")
            fields[name] = [text for item in items if (text := str(_scalar(item) or "").strip())]
        elif isinstance(value, list):
            scalars = [scalar for item in value if (scalar := _scalar(item)) is not None]
            if len(scalars) == len(value):
                fields[name] = scalars
        elif (scalar := _scalar(value)) is not None:
            fields[name] = scalar
    return fields


def _scalar(value: object) -> Scalar | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return None
