"""A query set asked of one release."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from ragops import ids
from ragops.errors import UsageError
from ragops.evaluation import documents, measures
from ragops.evaluation.documents import Found, Move
from ragops.evaluation.queries import Expected, QuerySet, Question
from ragops.evaluation.results import SYNTHETIC, Answer, Evaluation
from ragops.retrieval.query import Hit, Query
from ragops.retrieval.search import search
from ragops.types import Embedder, Mode, Reader

SHOWN = 3  # examples in a warning
KEPT = 10  # documents of a question's result
SLICES = "source, tenant, meta.NAME (of the documents that are expected) or query.NAME (of the question)"
NO_VALUE = "(none)"

Tell = Callable[[int, int], None]


def evaluate(
    reader: Reader, encoder: Embedder | None, queries: QuerySet, *, uris: Iterable[str],
    moves: Iterable[tuple[int, str, str]] = (), mode: Mode = "hybrid", rerank: str | None = None, exact: bool = False,
    cutoffs: Sequence[int] = (10,), slices: Sequence[str] = (), tell: Tell = lambda done, total: None,
) -> Evaluation:  # fmt: skip
    """Ask every question and measure the answers, each document ranked by its best chunk.

    A question that expects passages (quotes) is answered by passages instead: one counts where it holds at least half
    of the quote. `uris`: of every document of the release. `encoder` may be None where the mode is bm25. Everything in
    the release is asked, whoever may see it. Raises UsageError where not one expected document is there, MissingExtra.
    """
    measures.require()
    if not cutoffs or not all(1 <= cutoff <= 1000 for cutoff in cutoffs):
        raise UsageError(f"-k is {', '.join(map(str, cutoffs)) or 'nothing'}; it takes 1 to 1000")
    cutoffs = sorted(set(cutoffs))
    for name in slices:
        if name not in ("source", "tenant") and not (name.startswith(("meta.", "query.")) and name.partition(".")[2]):
            raise UsageError(f"--slice: there is no field {name!r}", f"There are {SLICES}.")
    names = {each.document for question in queries.questions for each in question.expected}
    found = documents.find(names, uris, [Move(*each) for each in moves])
    warnings = [*([SYNTHETIC] if queries.synthetic else []), *queries.warnings, *_lacking(queries, found, reader)]
    spans = _spans(reader, queries, found, warnings)
    qrels = {question.id: _judged(question, found, spans, warnings) for question in queries.questions}
    run, seconds = _asked(reader, encoder, queries, found, spans, Asked(mode, rerank, exact, cutoffs), tell)
    told = measures.names(cutoffs)
    values = measures.per_question(told, qrels, run)
    sliced = _sliced(reader, queries, found, slices)
    answers = tuple(
        Answer(
            question.id, question.text, question.digest, values[question.id],
            tuple(run[question.id][:KEPT]), {name: sliced[name][question.id] for name in slices},
        )
        for question in queries.questions
    )  # fmt: skip
    release = reader.release
    return Evaluation(
        metrics=_means(told, answers),
        queries=len(answers),
        release=release.number,
        fingerprint=release.fingerprint,
        mode=mode,
        model=release.space.model,
        space=release.space.fingerprint,
        rerank=rerank,
        exact=exact,
        questions=queries.digest,
        files=queries.files,
        synthetic=queries.synthetic,
        latency=_latency(seconds),
        slices={name: _by_value(told, answers, name) for name in slices},
        warnings=tuple(warnings),
        answers=answers,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _means(told: Sequence[str], answers: Sequence[Answer]) -> dict[str, float]:
    return {name: measures.mean([answer.metrics[name] for answer in answers]) for name in told}


def _by_value(told: Sequence[str], answers: Sequence[Answer], name: str) -> dict[str, dict[str, Any]]:
    values = sorted({value for answer in answers for value in answer.slices[name]})
    found = {}
    for value in values:
        some = [answer for answer in answers if value in answer.slices[name]]
        found[value] = {"queries": len(some), "metrics": _means(told, some)}
    return found


def _latency(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds, by nearest rank."""
    ordered = sorted(seconds)
    return {
        f"p{share}": round(1000 * ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)], 3) for share in (50, 99)
    }


# ---------------------------------------------------------------- what is expected
def _lacking(queries: QuerySet, found: Found, reader: Reader) -> list[str]:
    """What there is to say of judged documents that the release does not have, or has elsewhere."""
    warnings = []
    judged = [each for question in queries.questions for each in question.expected]
    lacking = [each for each in judged if each.document not in found.uris]
    relevant = {each.document for each in judged if each.relevance > 0}
    if relevant and not relevant & found.uris.keys():
        raise UsageError(
            f"none of the {len(relevant)} documents that are expected is in release {reader.release.number}:"
            f" {_examples(sorted(relevant))} ({judged[0].where})",
            "Judgements name a document by its URI (docs:/guide/install.md), by its path in the source"
            " (guide/install.md), or by the id of a row.",
        )
    if lacking:
        names = sorted({each.document for each in lacking})
        warnings.append(
            f"{len(lacking)} of {len(judged)} judgements name {len(names)} document{'s' if len(names) > 1 else ''} that"
            f" release {reader.release.number} does not have ({_examples(names)}): counted as not found"
        )
    if found.moved:
        moves = [f"{old} -> {new}" for old, new in sorted(found.moved.items())]
        warnings.append(
            f"{len(moves)} of the judged documents moved since ({_examples(moves)}): found by this workspace's log of"
            " moves, which a clone does not have; write the new names into the judgements"
        )
    return warnings


@dataclass(frozen=True, slots=True)
class Span:
    """A passage that is expected: of a document, in its words."""

    uri: str
    words: str
    key: str


def _span_key(uri: str, quote: str) -> str:
    return f"{uri} [{ids.short(ids.sha256_text(quote))}]"


def _spans(reader: Reader, queries: QuerySet, found: Found, warnings: list[str]) -> dict[str, list[Span]]:
    """Question -> its expected passages. Those that the document does not hold are told."""
    spans: dict[str, list[Span]] = {}
    for question in queries.questions:
        for each in question.expected:
            if each.quote is not None and each.document in found.uris:
                uri = found.uris[each.document]
                spans.setdefault(question.id, []).append(Span(uri, _words(each.quote), _span_key(uri, each.quote)))
    texts = _texts(reader, {span.uri for some in spans.values() for span in some})
    lost = {
        f"{span.words[:40]!r} in {span.uri}"
        for some in spans.values()
        for span in some
        if span.words not in texts.get(span.uri, "")
    }
    if lost:
        warnings.append(
            f"{len(lost)} quote{'s are' if len(lost) > 1 else ' is'} not in the document ({_examples(sorted(lost))}):"
            " counted as not found"
        )
    return spans


def _texts(reader: Reader, uris: set[str]) -> dict[str, str]:
    """The words of some documents, put together from their chunks."""
    chunks: dict[str, list[tuple[int, int, str]]] = {}
    for payload in _payloads(reader, uris):
        chunks.setdefault(payload["uri"], []).append((payload["start"], payload["end"], payload["text"]))
    found = {}
    for uri, some in chunks.items():
        text, reached = "", 0
        for start, end, words in sorted(some):
            if end > reached:
                text += (" " if start > reached else "") + words[max(0, reached - start) :]
                reached = end
        found[uri] = _words(text)
    return found


def _payloads(reader: Reader, uris: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    some = iter(sorted(uris))
    while batch := list(islice(some, 200)):
        for _, payload, _ in reader.points(filter={"uri": {"in": batch}}):
            yield payload


def _words(text: str) -> str:
    return " ".join(text.split())


def _judged(question: Question, found: Found, spans: Mapping[str, list[Span]], warnings: list[str]) -> dict[str, int]:
    """What a result may hold -> relevance. Two names of one document count once, by the higher judgement."""
    judged: dict[str, int] = {}
    for each in question.expected:
        key = _key(each, found)
        if key in judged and judged[key] != each.relevance:
            warnings.append(f"question {question.id!r} judges {key} twice and differently: the higher counts")
        judged[key] = max(each.relevance, judged.get(key, each.relevance))
    return judged


def _key(expected: Expected, found: Found) -> str:
    uri = found.uris.get(expected.document, expected.document)
    return uri if expected.quote is None else _span_key(uri, expected.quote)


def _sliced(
    reader: Reader, queries: QuerySet, found: Found, slices: Sequence[str]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Field -> question -> its values."""
    payloads: dict[str, Mapping[str, Any]] = {}
    if any(not name.startswith("query.") for name in slices):
        relevant = {
            found.uris[each.document]
            for question in queries.questions
            for each in question.expected
            if each.relevance > 0 and each.document in found.uris
        }
        for payload in _payloads(reader, relevant):
            payloads.setdefault(payload["uri"], payload)
    sliced: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in slices:
        for question in queries.questions:
            if name.startswith("query."):
                values = _texted(question.meta.get(name.partition(".")[2]))
            else:
                uris = {found.uris[each.document] for each in question.expected
                        if each.relevance > 0 and each.document in found.uris}  # fmt: skip
                values = [value for uri in uris if uri in payloads for value in _texted(_field(payloads[uri], name))]
            sliced.setdefault(name, {})[question.id] = tuple(sorted(set(values))) or (NO_VALUE,)
    return sliced


def _field(payload: Mapping[str, Any], name: str) -> Any:
    part, _, inner = name.partition(".")
    return (payload.get("meta") or {}).get(inner) if part == "meta" else payload.get(part)


def _texted(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(each) for each in values if each is not None and each != ""]


# ---------------------------------------------------------------- asking
@dataclass(frozen=True, slots=True)
class Asked:
    """How."""

    mode: Mode
    rerank: str | None
    exact: bool
    cutoffs: Sequence[int]


def _asked(
    reader: Reader, encoder: Embedder | None, queries: QuerySet, found: Found, spans: Mapping[str, list[Span]],
    how: Asked, tell: Tell,
) -> tuple[dict[str, list[str]], list[float]]:  # fmt: skip
    """Question -> what was found, best first, and the seconds that each took."""
    depth = max(measures.DEPTH, *how.cutoffs)
    run: dict[str, list[str]] = {}
    seconds: list[float] = []
    for done, question in enumerate(queries.questions):
        tell(done, len(queries.questions))
        passages = question.id in spans
        try:
            query = Query(
                question.text, k=depth, mode=how.mode, rerank=how.rerank, exact=how.exact,
                per_document=None if passages else 1, collapse=False,
            )  # fmt: skip
        except UsageError as error:
            raise UsageError(f"question {question.id!r}: {error.message}", error.hint) from error
        if not done:
            search(reader, encoder, query)  # loads the model, opens the index: no question's own time
        start = time.perf_counter()
        hits = search(reader, encoder, query).hits
        seconds.append(time.perf_counter() - start)
        if passages:
            whole = {found.uris.get(each.document) for each in question.expected if each.quote is None}
            run[question.id] = _passages(hits, spans[question.id], whole)
        else:
            run[question.id] = list(dict.fromkeys(hit.uri for hit in hits))
    return run, seconds


def _passages(hits: Sequence[Hit], spans: Sequence[Span], whole: set[str | None]) -> list[str]:
    """What the hits hold of what is expected, in order; a hit that holds nothing of it counts as itself."""
    found: dict[str, None] = {}
    for hit in hits:
        words = _words(hit.text)
        held = [span.key for span in spans if span.uri == hit.uri and holds(words, span.words)]
        held += [hit.uri] * (hit.uri in whole)
        fresh = [key for key in held if key not in found]
        if not held:
            fresh = [hit.chunk_id]
        found.update(dict.fromkeys(fresh))
    return list(found)


def holds(passage: str, quote: str) -> bool:
    """Whether a passage has at least half of a quote: whole, or cut at one of its ends. Both with single blanks."""
    if quote in passage or (passage and passage in quote and 2 * len(passage) >= len(quote)):
        return True
    least = max(1, math.ceil(len(quote) / 2))
    most = min(len(passage), len(quote) - 1)
    return any(
        passage.endswith(quote[:size]) or passage.startswith(quote[-size:]) for size in range(most, least - 1, -1)
    )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
