"""What readers of a release get, and whether two of them get the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUERIES = ("harbour copper signal", "the seventh lantern", "granite", "meadow and orchard in winter")


@dataclass(slots=True)
class Look:
    """What readers of a release get."""

    release: tuple[str, int, str, int]  # fingerprint, points, space, avg_len
    payloads: dict[str, Any]
    vectors: dict[str, list[float]]
    dense: dict[str, dict[str, float]]  # query -> point -> score
    words: dict[str, dict[str, float]]


def look(kb: Path) -> Look | None:
    """The live release as a reader sees it, or None where none was ever published."""
    from ragops.workspace import Workspace

    with Workspace.open(kb) as workspace:
        if workspace.store.live() is None:
            return None
        reader = workspace.reader()
        release = reader.release
        payloads, vectors = {}, {}
        for point, payload, vector in reader.points():
            payloads[point] = dict(payload)
            vectors[point] = [float(x) for x in vector]
        encoder = workspace.encoder(release)
        dense, words = {}, {}
        for query in QUERIES:
            vector = encoder.embed_queries([query])[0]
            dense[query] = {hit.point_id: hit.score for hit in reader.search(vector, len(payloads), exact=True)}
            words[query] = {hit.point_id: hit.score for hit in reader.search_text(query, len(payloads))}
        return Look(
            (release.fingerprint, release.points, release.space.fingerprint, release.avg_len),
            payloads, vectors, dense, words,
        )  # fmt: skip


def differences(found: Look, wanted: Look, *, sealed: bool = True) -> list[str]:
    """Between two looks: ids, payloads, vectors (1e-5), scores of exact and of word search (1e-5).

    `sealed`: the fingerprint too, which a release with today's permissions laid over does not change.
    """
    wrong = []
    if found.release[not sealed :] != wanted.release[not sealed :]:
        wrong.append(f"release {found.release} instead of {wanted.release}")
    missing, extra = wanted.payloads.keys() - found.payloads.keys(), found.payloads.keys() - wanted.payloads.keys()
    if missing or extra:
        return [*wrong, f"{len(missing)} points missing, {len(extra)} extra"]
    if len(found.payloads) != found.release[1]:
        wrong.append(f"{len(found.payloads)} points where the manifest says {found.release[1]}")
    wrong += [f"payload of {p}" for p, payload in wanted.payloads.items() if found.payloads[p] != payload]
    for point, vector in wanted.vectors.items():
        if max(abs(a - b) for a, b in zip(found.vectors[point], vector, strict=True)) > 1e-5:
            wrong.append(f"vector of {point}")
    for kind in ("dense", "words"):
        for query, scores in getattr(wanted, kind).items():
            got = getattr(found, kind)[query]
            if got.keys() != scores.keys() or any(abs(got[p] - s) > 1e-5 for p, s in scores.items()):
                wrong.append(f"{kind} scores of {query!r}")
    return wrong
