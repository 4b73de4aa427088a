"""Why the hits of a query are not the same in two releases: decided from what the releases hold, never guessed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from ragops.retrieval.query import MAX_K, Hit, Query, hit
from ragops.retrieval.search import search
from ragops.types import Embedder, Filter, Mode, Reader, Release

Move: TypeAlias = Literal["in", "out", "up", "down", "same"]
Reason: TypeAlias = Literal[
    "filter",  # the passage is in both releases; the filter lets it through in one of them only
    "index",  # it is near enough in both; the approximate search passed it over in one of them
    "added",  # its document is not in A
    "removed",  # its document is not in B
    "moved",  # its document has another uri
    "chunking",  # its words stand in both documents, but are cut, or put to the model, in another way
    "text",  # the document's text differs
    "metadata",  # the same words under another title, heading, page or metadata
    "model",  # the vector spaces differ
    "others",  # other passages came, left or changed sides with it
]

TOLERANCE = 2e-6  # of scores: one vector may score this much apart in two releases
_HERE = 1 << 62  # more than any overlap: the same chunk
_GAP = "\0"  # where no chunk stands: chunks are trimmed


@dataclass(frozen=True, slots=True)
class HitChange:
    """One hit of a query in release A, in release B, or in both.

    Ranks count from 1. Beside a hit that came in or went out stands where its chunk is in the release in which it is no
    hit; None: it is not there, or further down than was looked. `reasons` has the decisive one first (see `explain`).
    """

    move: Move
    reasons: tuple[Reason, ...]
    rank_a: int | None
    rank_b: int | None
    a: Hit | None
    b: Hit | None
    came: int  # other hits that stand before it in B and did not in A; 0 where it is not there in both, or hidden
    left: int  # other hits that stood before it in A and do not in B; likewise

    @property
    def hit(self) -> Hit:
        """As it is in B, or as it was in A where it is no hit of B."""
        found = self.a if self.move == "out" else self.b
        assert found is not None
        return found

    def as_dict(self) -> dict[str, Any]:
        shown = self.hit
        return {
            "move": self.move,
            "reasons": list(self.reasons),
            "rank_a": self.rank_a,
            "rank_b": self.rank_b,
            "score_a": self.a.score if self.a else None,
            "score_b": self.b.score if self.b else None,
            "chunk_a": self.a.chunk_id if self.a else None,
            "chunk_b": self.b.chunk_id if self.b else None,
            "came": self.came,
            "left": self.left,
            "uri": shown.uri,
            "title": shown.title,
            "heading": list(shown.heading),
            "page": shown.page,
            "start": shown.start,
            "end": shown.end,
            "text": shown.text,
        }


def explain(
    reader_a: Reader,
    reader_b: Reader,
    encoder_a: Embedder,
    encoder_b: Embedder,
    query: str,
    *,
    k: int = 10,
    filter: Filter | None = None,
    mode: Mode = "dense",
    exact: bool = False,
    moved: Mapping[str, str] | None = None,
) -> tuple[HitChange, ...]:
    """The hits of a query in two releases side by side: those of B by rank, then those that only A has.

    `moved` maps the uris of moved documents from A to B. Two hits are one where the chunk is the same (by id, or in a
    moved document by its words), else where one chunk replaced the other at the same place of the document.

    Reasons, the decisive one first: `filter` and `index` hide what is there. Then what happened to the passage itself:
    `removed` or `added`, `moved`, `chunking` (its words are still there), `text`, `metadata`. Then `model`. `others`
    stands alone where the passage is as it was. In the mode dense it also stands first where the passage's old score
    would have brought it to its new rank (not where another chunker cut all passages anew, nor across models, whose
    scores do not compare; those of other modes depend on all that a release holds). A hit of the same rank has reasons
    only if the passage itself changed. Raises UsageError, SpaceMismatch, StoreError.
    """
    asked = Query(query, k, mode, filter, exact=exact, collapse=False)
    old = search(reader_a, encoder_a, asked).hits
    new = search(reader_b, encoder_b, asked).hits
    places = {found.chunk_id: j for j, found in enumerate(new)}
    joined = {i: places[found.chunk_id] for i, found in enumerate(old) if found.chunk_id in places}
    forth = dict(moved or {})
    back = {uri: was for was, uri in forth.items()}
    lone_a = {found.uri for i, found in enumerate(old) if i not in joined}
    lone_b = {found.uri for j, found in enumerate(new) if j not in joined.values()}
    texts_a = _Texts(reader_a, lone_a | {back.get(uri, uri) for uri in lone_b}, filter)
    texts_b = _Texts(reader_b, lone_b | {forth.get(uri, uri) for uri in lone_a}, filter)
    links = _Links()
    for uri, chunks in texts_a.chunks.items():
        links.add(_aligned(chunks, texts_b.chunks.get(forth.get(uri, uri), [])))
    _join(joined, old, new, links)

    # Looked up further down, and exactly: where those are that are no hits, and what they would have had to pass.
    depth = min(MAX_K, max(100, 10 * k))
    still = len(old) == len(new) == len(joined) and all(i == j for i, j in joined.items())
    deep = replace(asked, k=depth, exact=True)
    deep_a = () if still else search(reader_a, encoder_a, deep).hits
    deep_b = () if still else search(reader_b, encoder_b, deep).hits
    same_space = mode == "bm25" or reader_a.release.space.fingerprint == reader_b.release.space.fingerprint
    recut = chunker_changed(reader_a.release, reader_b.release)
    taken_a, taken_b = {old[i].chunk_id for i in joined}, {new[j].chunk_id for j in joined.values()}

    def change(i: int | None, j: int | None) -> HitChange:
        b = links.after(old[i]) if i is not None and j is None else None if j is None else new[j]
        a = links.before(new[j]) if j is not None and i is None else None if i is None else old[i]
        rank_a, seen_a = (i + 1, a) if i is not None else _place(a, deep_a, taken_a)
        rank_b, seen_b = (j + 1, b) if j is not None else _place(b, deep_b, taken_b)
        move: Move = "in" if i is None else "out" if j is None else "same" if i == j else "up" if i > j else "down"
        hidden: list[Reason] = []
        if a is not None and b is not None and (i is None or j is None):
            if texts_a.hides(a) if i is None else texts_b.hides(b):
                hidden.append("filter")
            elif not exact and ((rank_a if i is None else rank_b) or k + 1) <= k:
                hidden.append("index")
        itself = _itself(a, b, texts_a, texts_b, forth, hit_is_b=i is None)
        reasons: Sequence[Reason]
        if move == "same" or itself[:1] in (["added"], ["removed"]):
            reasons = itself
        elif not same_space:
            reasons = [*hidden, *itself, "model"]
        elif hidden:
            reasons = [*hidden, *itself]
        elif not itself or (
            mode == "dense" and not recut and _anyway(seen_a, b, rank_b if j is not None else None, deep_b, k)
        ):
            reasons = ["others", *itself]
        else:
            reasons = itself
        came, left = (0, 0) if hidden or a is None or b is None else _sides(i, j, len(old), len(new), joined)
        return HitChange(move, tuple(reasons), rank_a, rank_b, seen_a, seen_b, came, left)

    backwards = {j: i for i, j in joined.items()}
    stay = [change(backwards.get(j), j) for j in range(len(new))]
    return (*stay, *(change(i, None) for i in range(len(old)) if i not in joined))


def chunker_changed(a: Release, b: Release) -> bool | None:
    """None where a release does not say by which chunker it was made."""
    old, new = (release.notes.get("recipe", {}).get("chunker") for release in (a, b))
    return None if old is None or new is None else bool(old != new)


# ------------------------------------------------------------------ which passage became which
class _Texts:
    """The chunks of some documents of a release as they stand, whether or not a filter lets them through."""

    def __init__(self, reader: Reader, uris: Iterable[str], filter: Filter | None) -> None:
        self.chunks: dict[str, list[Hit]] = {}
        self._whole: dict[str, str] = {}
        self._visible: set[str] | None = None
        if not (names := sorted(uris)):
            return
        for _, payload, _ in reader.points(filter={"uri": {"in": names}}):
            self.chunks.setdefault(payload["uri"], []).append(hit(0.0, payload))
        for chunks in self.chunks.values():
            chunks.sort(key=lambda chunk: (chunk.start, chunk.end, chunk.chunk_id))
        if filter is not None:
            both: Filter = {"uri": {"in": names}, "any": [filter]}
            self._visible = {payload["chunk_id"] for _, payload, _ in reader.points(filter=both)}

    def hides(self, chunk: Hit) -> bool:
        return self._visible is not None and chunk.chunk_id not in self._visible

    def whole(self, uri: str) -> str:
        """A document's text as its chunks say it; what stands between chunks is not known."""
        if uri not in self._whole:
            parts, at = [], 0
            for chunk in self.chunks.get(uri, ()):
                parts.append(_GAP * (chunk.start - at))
                if chunk.end > at:
                    parts.append(chunk.text[max(0, at - chunk.start) :])
                    at = chunk.end
            self._whole[uri] = "".join(parts)
        return self._whole[uri]


class _Links:
    """For each chunk the one in the other release that is the same, or that came to its place."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, Hit, Hit]] = []
        self._before: dict[str, tuple[int, Hit]] = {}
        self._after: dict[str, tuple[int, Hit]] = {}

    def add(self, pairs: Iterable[tuple[int, Hit, Hit]]) -> None:
        for weight, a, b in pairs:
            self.pairs.append((weight, a, b))
            if weight > self._after.get(a.chunk_id, (0, a))[0]:
                self._after[a.chunk_id] = weight, b
            if weight > self._before.get(b.chunk_id, (0, b))[0]:
                self._before[b.chunk_id] = weight, a

    def before(self, chunk: Hit) -> Hit | None:
        return self._before[chunk.chunk_id][1] if chunk.chunk_id in self._before else None

    def after(self, chunk: Hit) -> Hit | None:
        return self._after[chunk.chunk_id][1] if chunk.chunk_id in self._after else None


def _aligned(old: Sequence[Hit], new: Sequence[Hit]) -> Iterator[tuple[int, Hit, Hit]]:
    """(weight, chunk of A, chunk of B) of one document: the same chunk, or overlapping ones where it was rewritten."""
    if not old or not new:
        return
    before, after = (_names(chunks, by_id=old[0].uri == new[0].uri) for chunks in (old, new))
    places = dict(zip(after, new, strict=True))
    for name, a in zip(before, old, strict=True):
        if name in places:
            yield _HERE, a, places[name]
    kept = places.keys() & set(before)
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "replace":
            continue
        shift = new[j1].start - old[i1].start  # the text before it may have grown or shrunk
        first = j1
        for a in (chunk for name, chunk in zip(before[i1:i2], old[i1:i2], strict=True) if name not in kept):
            while first < j2 and new[first].end <= a.start + shift:
                first += 1
            for j in range(first, j2):
                if new[j].start >= a.end + shift:
                    break
                overlap = min(new[j].end, a.end + shift) - max(new[j].start, a.start + shift)
                if overlap > 0 and after[j] not in kept:
                    yield overlap, a, new[j]


def _names(chunks: Sequence[Hit], *, by_id: bool) -> list[Hashable]:
    """What a chunk is known by within a document; in a moved one by its words, and by their order among equals."""
    if by_id:
        return [chunk.chunk_id for chunk in chunks]
    seen: dict[Hashable, int] = {}
    names: list[Hashable] = []
    for chunk in chunks:
        words = (chunk.title, chunk.heading, chunk.text)
        seen[words] = seen.get(words, -1) + 1
        names.append((words, seen[words]))
    return names


def _join(joined: dict[int, int], old: Sequence[Hit], new: Sequence[Hit], links: _Links) -> None:
    """Pair the hits that are left, each with one, the largest overlap first."""
    ranks_a = {found.chunk_id: i for i, found in enumerate(old) if i not in joined}
    ranks_b = {found.chunk_id: j for j, found in enumerate(new) if j not in joined.values()}
    wanted = [
        (-weight, ranks_a[a.chunk_id], ranks_b[b.chunk_id])
        for weight, a, b in links.pairs
        if a.chunk_id in ranks_a and b.chunk_id in ranks_b
    ]
    done: set[int] = set()
    for _, i, j in sorted(wanted):
        if i not in joined and j not in done:
            joined[i] = j
            done.add(j)


# ------------------------------------------------------------------ what is measured
def _itself(
    a: Hit | None, b: Hit | None, texts_a: _Texts, texts_b: _Texts, forth: Mapping[str, str], *, hit_is_b: bool
) -> list[Reason]:
    """What happened to the passage itself. `a` or `b` is the hit, the other what became of it, where there is one."""
    if a is not None and b is not None and a.chunk_id == b.chunk_id:
        return ["metadata"] if _labels(a) != _labels(b) else []
    if a is None:
        assert b is not None
        uri_a = next((was for was, uri in forth.items() if uri == b.uri), b.uri)
        uri_b = b.uri
    else:
        uri_a, uri_b = a.uri, forth.get(a.uri, a.uri)
    if b is None and uri_b not in texts_b.chunks:
        return ["removed"]
    if a is None and uri_a not in texts_a.chunks:
        return ["added"]
    found: list[Reason] = []
    same_words = a is not None and b is not None and _words(a.text) == _words(b.text)
    passage = b if hit_is_b else a
    other = texts_a.whole(uri_a) if hit_is_b else texts_b.whole(uri_b)
    assert passage is not None
    if not same_words and _words(passage.text) in _words(other):
        found.append("chunking")
    same_passage = a is not None and b is not None and a.text == b.text
    if not same_passage and not _same_text(texts_a.whole(uri_a), texts_b.whole(uri_b)):
        found.append("text")
    if a is not None and b is not None and same_words and _labels(a) != _labels(b):
        found.append("metadata")
    if uri_a != uri_b:
        return ["moved", *found]
    return found or ["chunking"]  # nothing that can be seen: what the chunker puts before the text


def _labels(chunk: Hit) -> tuple[object, ...]:
    return chunk.title, chunk.heading, chunk.page, chunk.meta


def _words(text: str) -> str:
    return " ".join(text.replace(_GAP, " ").split())


def _same_text(one: str, two: str) -> bool:
    """Whether two texts agree wherever both are known; what is known of one alone must be white space."""
    return one == two or all(
        p == q or (p == _GAP and q.isspace()) or (q == _GAP and p.isspace())
        for p, q in zip_longest(one, two, fillvalue=_GAP)
    )


def _place(chunk: Hit | None, deep: Sequence[Hit], taken: set[str]) -> tuple[int | None, Hit | None]:
    """Rank and scored hit of a chunk that is no hit; of none that stands for another hit already."""
    if chunk is None or chunk.chunk_id in taken:
        return None, None
    return next(((n, found) for n, found in enumerate(deep, 1) if found.chunk_id == chunk.chunk_id), (None, None))


def _anyway(a: Hit | None, b: Hit | None, rank_b: int | None, deep: Sequence[Hit], k: int) -> bool:
    """Whether the passage's old score would have brought it to the rank that it has in B (None: no hit)."""
    if a is None:
        return False
    scores = [found.score for found in deep if b is None or found.chunk_id != b.chunk_id]
    above = sum(score > a.score + TOLERANCE for score in scores)
    if rank_b is None:
        return above >= k
    return above < rank_b <= 1 + sum(score >= a.score - TOLERANCE for score in scores)


def _sides(i: int | None, j: int | None, hits_a: int, hits_b: int, joined: Mapping[int, int]) -> tuple[int, int]:
    """How many other hits came before a hit, and how many that stood before it do no more."""
    end_a, end_b = hits_a if i is None else i, hits_b if j is None else j
    stayed = sum(joined.get(other, end_b) < end_b for other in range(end_a))
    return end_b - stayed, end_a - stayed
