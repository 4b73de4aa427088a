"""Points and vectors, checked before any engine sees them.

Engines accept NaN, infinity and zero vectors in silence and may apply half of a bad batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ragops.errors import StoreError
from ragops.types import Point

if TYPE_CHECKING:
    from ragops.types import Vectors

BATCH = 500  # points
BATCH_BYTES = 8 << 20  # of payload; Qdrant refuses requests above 32 MiB
PAYLOAD_BYTES = 1 << 20  # of one point
UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HINT = "Nothing was published. This is a fault in the dataset: `ragops verify --repair` makes it anew."
REBUILD = "Nothing was published. `ragops verify --repair` builds the release from the dataset."


@dataclass(frozen=True, slots=True)
class Batch:
    points: list[Point]
    payloads: list[str]  # JSON
    vectors: Vectors  # float32 (len(points), dim), unit length


def batches(add: Iterable[tuple[Point, Sequence[float]]], dim: int) -> Iterator[Batch]:
    """Checked batches of bounded size. Raises StoreError at the first bad point; ids must not come twice."""
    seen: set[bytes] = set()
    points: list[Point] = []
    payloads: list[str] = []
    vectors: list[Sequence[float]] = []
    size = 0
    for point, vector in add:
        id = _point_id(point.point_id)
        if id in seen:
            raise StoreError(f"point {point.point_id} was given twice", HINT)
        seen.add(id)
        payload = _payload(point)
        points.append(point)
        payloads.append(payload)
        vectors.append(vector)
        size += len(payload)
        if len(points) == BATCH or size >= BATCH_BYTES:
            yield Batch(points, payloads, _unit(points, vectors, dim))
            points, payloads, vectors, size = [], [], [], 0
    if points:
        yield Batch(points, payloads, _unit(points, vectors, dim))


def _point_id(text: str) -> bytes:
    if not isinstance(text, str) or not UUID.fullmatch(text):
        raise StoreError(f"point id {text!r} is not a UUID in its canonical form", HINT)
    return bytes.fromhex(text.replace("-", ""))


def check_ids(ids: Iterable[str]) -> Iterator[str]:
    for text in ids:
        _point_id(text)
        yield text


def not_in_base(ids: Collection[str]) -> StoreError:
    return StoreError(f"{len(ids):,} points to delete are not in the base, such as {min(ids)}", REBUILD)


def in_base_already(id: str) -> StoreError:
    return StoreError(f"point {id} is in the base already and was added again without being deleted", REBUILD)


def _payload(point: Point) -> str:
    for key, value in (("chunk_id", point.chunk_id), ("document_id", point.document_id)):
        if point.payload.get(key) != value:
            raise StoreError(
                f"point {point.point_id}: its payload's {key} is {point.payload.get(key)!r}, not {value!r}", HINT
            )
    if not isinstance(point.payload.get("text"), str):
        raise StoreError(f"point {point.point_id} has no text in its payload", HINT)
    title, heading = point.payload.get("title"), point.payload.get("heading")
    if not (title is None or isinstance(title, str)) or not (
        heading is None or (isinstance(heading, list) and all(isinstance(part, str) for part in heading))
    ):
        raise StoreError(f"point {point.point_id}: its title is not text, or its heading no list of texts", HINT)
    try:
        text = orjson.dumps(point.payload)
    except TypeError as error:  # a lone surrogate, a key that is not text
        raise StoreError(f"point {point.point_id}: its payload cannot be stored: {error}", HINT) from None
    wrong = _unlike_json(point.payload)
    if wrong is not None:
        raise StoreError(f"point {point.point_id}: its payload cannot be stored: {wrong}", HINT)
    if len(text) > PAYLOAD_BYTES:
        raise StoreError(
            f"point {point.point_id}: its payload has {len(text):,} bytes; {PAYLOAD_BYTES:,} are possible", HINT
        )
    return text.decode()


def _unlike_json(value: Any) -> str | None:
    """Why a value would not be read back as it was written (a key 1, a tuple, NaN), or None."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return None
    if kind is int:
        return None if -(2**63) <= value < 2**63 else f"{value} is an integer of more than 64 bits"
    if kind is float:
        return None if math.isfinite(value) else f"{value} is no number in JSON"
    if kind is list:
        return next((wrong for item in value if (wrong := _unlike_json(item)) is not None), None)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f"the key {key!r} is not text"
            if type(item) is not str and (wrong := _unlike_json(item)) is not None:
                return f"{key}: {wrong}"
        return None
    return f"JSON has no {kind.__name__}"


def _unit(points: Sequence[Point], vectors: Sequence[Sequence[float]], dim: int) -> Vectors:
    import numpy as np

    for point, vector in zip(points, vectors, strict=True):
        if len(vector) != dim:
            raise StoreError(f"point {point.point_id}: its vector has {len(vector)} dimensions, not {dim}", HINT)
    rows = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        point = points[int(bad[0])]
        raise StoreError(f"point {point.point_id}: its vector holds NaN or infinity, or has no length", HINT)
    unit: Vectors = (rows / norms[:, None]).astype(np.float32)
    return unit
