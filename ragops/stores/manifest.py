"""A release as JSON: what a sealed folder or a server's meta collection says of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ragops.errors import SchemaError, SpaceMismatch, StoreError
from ragops.types import Release, Space

SCHEMA = 1


class Damaged(StoreError):
    """What is on disk is not what was sealed."""


class Absent(StoreError):
    """There is no such release."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The seal of a release. `files` maps a path in the folder to its size in bytes and checksum."""

    release: Release
    engine: Mapping[str, Any]  # name, version and index settings
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    deletes: bool = False  # points were deleted since the last clean build: IDF must be told what to count
    work: Mapping[str, int] = field(default_factory=dict)  # copied_bytes, added, deleted


def dump(manifest: Manifest) -> dict[str, Any]:
    # Through JSON once, so that a tuple and the list it comes back as are the same.
    value = json.loads(json.dumps({"schema": SCHEMA, **dataclasses.asdict(manifest)}, ensure_ascii=False))
    return {**value, "seal": _seal(value)}


def load(value: Any, where: str) -> Manifest:
    """Raises SchemaError for a newer one, Damaged for a damaged one."""
    try:
        schema = value["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise SchemaError.newer(where, schema, SCHEMA)
        if value["seal"] != _seal({key: item for key, item in value.items() if key != "seal"}):
            raise ValueError("its seal does not fit its content")
        release = dict(value["release"])
        space = Space(**release.pop("space"))
        return Manifest(
            release=Release(space=space, **release),
            engine=value["engine"],
            files={name: (int(size), str(checksum)) for name, (size, checksum) in value["files"].items()},
            deletes=value["deletes"],
            work=value["work"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{where} is damaged: {error}", MEND) from error


def check_base(base: Release, release: Release) -> None:
    """Raises SpaceMismatch, StoreError where a release cannot be made of another one."""
    if base.space.fingerprint != release.space.fingerprint or base.space.dim != release.space.dim:
        raise SpaceMismatch(
            f"release {release.number} is of the space {release.space.fingerprint[:12]} ({release.space.model}), "
            f"its base {base.number} of {base.space.fingerprint[:12]} ({base.space.model})",
            "A new space needs a clean build: base=None.",
        )
    if base.avg_len != release.avg_len:
        raise StoreError(
            f"release {release.number} has avg_len {release.avg_len}, its base {base.number} has {base.avg_len}",
            "avg_len is fixed per collection; another one needs a clean build: base=None.",
        )


def _seal(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


MEND = "`ragops verify --repair` builds a sound release; until then `ragops search --release N` asks an older one."
SPACE_HINT = "Free some space and run it again: what was computed is kept. Nothing was published."
