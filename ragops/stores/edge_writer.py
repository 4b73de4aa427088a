"""The process that writes a draft shard: `python -m ragops.stores.edge_writer PARENT_PID`.

It is a process of its own because the engine holds the GIL while it works, dies of SIGBUS when the disk is full, and
may be killed for memory: the parent turns each of that into an error. It never outlives its parent.

Frames on stdin are a letter and two lengths (JSON, raw bytes), then both: C settings, D ids to delete, A points to add
as [[id, payload], ...] with their float32 vectors, E the end. Answers on stdout are JSON lines.
"""

from __future__ import annotations

import array
import ctypes
import itertools
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ragops.stores import bm25, files
from ragops.stores.index import (
    DENSE,
    FULL_SCAN_KB,
    HNSW_EF,
    HNSW_M,
    INDEXED_FIELDS,
    INDEXED_FROM,
    QUANTILE,
    SEGMENT,
    SPARSE,
    kilobytes,
)

HEADER = struct.Struct("<cII")
LET_GO = 2_000  # points; how often what is written goes to the disk, and its pages back to the system
SHARED = ("document_id", "uri", "source", "title", "tenant", "groups", "meta")
WORTH_SHARING = 3  # points; for fewer, another update costs as much as it saves
_MADV_DONTNEED = 4


class NoSpace(Exception):
    """Too little free space to go on."""


def frame(kind: bytes, value: str, raw: bytes = b"") -> bytes:
    text = value.encode()
    return HEADER.pack(kind, len(text), len(raw)) + text + raw


def main() -> None:
    _die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump onto a disk that may be full
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the engine prints is no answer

    def tell(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        _serve(sys.stdin.buffer, tell)
    except (BrokenPipeError, EOFError):
        os._exit(1)  # the parent is gone or gave up: so is the draft
    except NoSpace as error:
        tell({"no_space": str(error)})
    except BaseException as error:  # a Rust panic is a BaseException
        tell({"error": f"{type(error).__name__}: {error}"})


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it went before the line above


def _read(stream: BinaryIO) -> tuple[bytes, Any, bytes]:
    kind, text, raw = HEADER.unpack(_exactly(stream, HEADER.size))
    return kind, orjson.loads(_exactly(stream, text)), _exactly(stream, raw)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _serve(stream: BinaryIO, tell: Callable[[Mapping[str, Any]], None]) -> None:
    import qdrant_edge as edge

    _, config, _ = _read(stream)
    path = Path(config["path"])
    dim: int = config["dim"]
    reserve: int | None = config["reserve"]
    encoder = bm25.Bm25(config["avg_len"])
    operation = edge.UpdateOperation
    _need(path, 0, reserve)
    if config["base"]:
        shard = edge.EdgeShard.load(str(path))
    else:
        shard = edge.EdgeShard.create(str(path), _edge_config(edge, dim))
        for name in INDEXED_FIELDS:
            shard.update(operation.create_field_index(name, edge.KeywordIndexParams(is_tenant=name == "tenant")))
    written = settled = 0
    while True:
        kind, value, raw = _read(stream)
        _need(path, 4 * len(raw), reserve)
        if kind == b"D":
            shard.update(operation.delete_points(value))
        elif kind == b"A":
            vectors = array.array("f", raw)
            texts = [bm25.text_of(payload) for _, payload in value]
            shared = _take_shared(value)
            points = []
            for row, (id, payload) in enumerate(value):
                named: dict[str, Any] = {DENSE: vectors[row * dim : (row + 1) * dim]}
                tokens, weights = encoder.document(texts[row])
                if tokens:
                    named[SPARSE] = edge.SparseVector(tokens, weights)
                points.append(edge.Point(id, named, payload))
            shard.update(operation.upsert_points(points))
            for neighbours, part in shared:
                shard.update(operation.set_payload(list(neighbours), part))
            written += len(points)
            if written % LET_GO < len(points):
                shard.flush()  # the room of payloads before they were whole is used again from then on
                _let_go(path)
            if written - settled >= SEGMENT:
                # A full segment is indexed at once, and its maps are let go: memory stays that of one segment.
                _let_go(path)
                shard.optimize()
                shard.flush()
                shard.close()
                shard = edge.EdgeShard.load(str(path))
                settled = written
            tell({"written": written})
        else:
            break
    points_now = shard.count(edge.CountRequest(exact=True))
    if points_now >= INDEXED_FROM and written > points_now // 10:
        _need(path, files.allocated(path), reserve)  # an index is built beside the old segments
    _let_go(path)
    shard.optimize()
    shard.flush()
    shard.close()
    # The first load after writing takes in the journals; from then on the files stay as they are.
    shard = edge.EdgeShard.load(str(path))
    count = shard.count(edge.CountRequest(exact=True))
    shard.close()
    tell({"done": count})


def _take_shared(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[list[str], dict[str, Any]]]:
    """Take out of the payloads what neighbours have in common, as chunks of one document do: (ids, what) of each group.

    The engine is slow to take a payload from Python, so it gets that part once for all of them.
    """
    parts = [{name: payload[name] for name in SHARED if name in payload} for _, payload in rows]
    written = [orjson.dumps(part) for part in parts]  # 1 is not True
    taken: list[tuple[list[str], dict[str, Any]]] = []
    for _, neighbours in itertools.groupby(range(len(rows)), written.__getitem__):
        group = list(neighbours)
        if len(group) >= WORTH_SHARING and parts[group[0]]:
            for row in group:
                for name in parts[row]:
                    del rows[row][1][name]
            taken.append(([rows[row][0] for row in group], parts[group[0]]))
    return taken


def _edge_config(edge: Any, dim: int) -> Any:
    return edge.EdgeConfig(
        vectors={
            DENSE: edge.EdgeVectorParams(
                size=dim,
                distance=edge.Distance.Cosine,
                hnsw_config=edge.HnswIndexConfig(m=HNSW_M, ef_construct=HNSW_EF, full_scan_threshold=FULL_SCAN_KB),
                quantization_config=edge.ScalarQuantizationConfig(
                    type=edge.ScalarType.Int8, memory=edge.Memory.Pinned, quantile=QUANTILE
                ),
            )
        },
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=kilobytes(INDEXED_FROM, dim),
            max_segment_size=kilobytes(SEGMENT, dim),
            default_segment_number=1,
        ),
        wal_enabled=False,  # cannot be changed later; without it any number of processes can read
    )


def _let_go(folder: Path) -> None:
    """Give back the resident pages of the files mapped from `folder`: the kernel keeps their content, the engine finds
    it again when it looks. Only shared maps, of which nothing can be lost. Linux only; elsewhere memory is just higher.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    inside = os.fsencode(os.path.realpath(folder)) + b"/"
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            field = line.split(maxsplit=5)
            if len(field) == 6 and field[1][3:] == b"s" and field[5].startswith(inside):
                start, _, end = field[0].partition(b"-")
                libc.madvise(int(start, 16), int(end, 16) - int(start, 16), _MADV_DONTNEED)


def _need(path: Path, size: int, reserve: int | None) -> None:
    if reserve is None:
        return
    free = files.free_bytes(path.parent)
    if free < size + reserve:
        raise NoSpace(f"{free:,} bytes free, {size + reserve:,} needed to go on")


if __name__ == "__main__":
    main()
