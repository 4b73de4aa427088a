"""Queries, their fusion, and what is made of the candidates."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops import ids
from ragops.embedders.hashed import HashEmbedder
from ragops.errors import MissingExtra, ModelError, RagopsError, SpaceMismatch, UsageError
from ragops.retrieval import diversity, recall, rerank
from ragops.retrieval.context import context
from ragops.retrieval.document import chunk, document
from ragops.retrieval.fusion import depth, fuse, paged
from ragops.retrieval.query import MAX_K, MAX_TEXT, Query, ask
from ragops.retrieval.scope import scope
from ragops.retrieval.search import search, search_many
from ragops.retrieval.why import why
from ragops.stores.edge import EdgeStore
from ragops.types import Place, Point, Reader
from ragops.workspace import Workspace
from tests.conftest import use_model, write_corpus
from tests.store_contract import point, release

MODEL = HashEmbedder(64)
BOILERPLATE = "All rights reserved by the harbour company."


def texts() -> Iterator[tuple[str, str]]:
    """(document, text): 30 documents of four passages, the last of which is the same in all."""
    words = ("lantern", "copper", "meadow", "violin", "glacier", "pepper")
    for n in range(30):
        for part in range(3):
            yield f"d{n}", f"Part {part} of text {n} is about the {words[(n + part) % 6]} and the {words[n % 5]}."
        yield f"d{n}", BOILERPLATE


def made(i: int, document: str, text: str, **payload: Any) -> Point:
    """A point of a document; an id that a document may have is 64 hex digits."""
    id = ids.sha256_text(document)
    found = point(i, document_id=id, uri=f"notes:/{document}.md", text=text, title=document, heading=[], **payload)
    return replace(found, document_id=id)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    store = EdgeStore(tmp_path_factory.mktemp("search") / "store")
    rows = list(texts())
    vectors = MODEL.embed([text for _, text in rows])
    points = [
        made(
            i,
            document,
            text,
            start=100 * (i % 4),
            end=100 * (i % 4) + len(text),
            page=None,
            groups=[],
            tenant="even" if i // 4 % 2 == 0 else "odd",
            meta={"n": i // 4},
        )
        for i, (document, text) in enumerate(rows)
    ]
    store.write(
        replace(release(1, len(points)), space=MODEL.space), base=None, delete=[],
        add=list(zip(points, vectors, strict=True)),
    )  # fmt: skip
    store.publish(1)
    with store.open() as opened:
        yield opened


def uris(reader: Reader, text: str, **options: Any) -> list[str]:
    return [f"{hit.uri}@{hit.start}" for hit in search(reader, MODEL, Query(text, **options)).hits]


# ---------------------------------------------------------------- queries
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \n\t"}, "empty"),
        ({"text": 7}, "text"),
        ({"text": "a" * (MAX_TEXT + 1)}, "characters"),
        ({"text": "\ud800"}, "Unicode"),
        ({"k": 0}, "k is 0"),
        ({"k": MAX_K + 1}, "10000"),
        ({"k": True}, "whole number"),
        ({"k": 2.0}, "whole number"),
        ({"offset": -1}, "offset"),
        ({"k": 10, "offset": MAX_K}, "together"),
        ({"mode": "sparse"}, "dense, bm25, hybrid"),
        ({"expand": 21}, "expand"),
        ({"per_document": 0}, "per_document"),
        ({"min_score": math.nan}, "min_score"),
        ({"min_score": "0.5"}, "min_score"),
        ({"diversity": 1.1}, "diversity"),
        ({"rerank": " "}, "rerank"),
        ({"exact": "no"}, "True or False"),
        ({"collapse": 0}, "True or False"),
    ],
)
def test_a_query_that_cannot_be(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Query(**{"text": "harbour", **wrong})


@given(st.text(max_size=400).filter(str.strip), st.sampled_from(["dense", "bm25", "hybrid"]))
@settings(max_examples=150, deadline=None)
def test_any_text_is_answered_or_refused(reader: Reader, text: str, mode: Any) -> None:
    try:
        query = Query(text, 5, mode)
    except UsageError:
        return
    assert len(search(reader, MODEL, query).hits) <= 5


def test_a_query_of_a_text_and_of_a_query() -> None:
    assert ask("a", None, {}, {"mode": "bm25"}, 7) == Query("a", 7, "bm25")
    assert ask("a", 3, {"mode": "dense", "expand": 1}, {"mode": "bm25"}, 7) == Query("a", 3, "dense", expand=1)
    own = Query("a", 4, "dense")
    assert ask(own, None, {}, {"mode": "bm25"}, 7) == own
    assert ask(own, 5, {"exact": True}, {}, 7) == Query("a", 5, "dense", exact=True)


# ---------------------------------------------------------------- fusion
def places(ids: list[int]) -> list[Place]:
    return [Place(f"{id:04d}", 1 - rank / 100, f"key{id}") for rank, id in enumerate(ids)]


ORDERS = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(ORDERS, ORDERS)
def test_fusion(dense: list[int], words: list[int]) -> None:
    fused = fuse({"dense": places(dense), "bm25": places(words)})
    assert {each.place.point_id for each in fused} == {f"{id:04d}" for id in {*dense, *words}}
    again = fuse({"bm25": places(words), "dense": places(dense)})
    assert [each.place.point_id for each in fused] == [each.place.point_id for each in again]
    scaled = {
        "dense": {id: 1 - place / max(1, len(dense) - 1) for place, id in enumerate(dense)},  # as `places` scores them
        "bm25": {id: 1 - place / 100 for place, id in enumerate(words)},  # it went to its end: what it lacks is 0
    }
    for each in fused:
        id = int(each.place.point_id)
        expected = {name: order.index(id) + 1 for name, order in (("dense", dense), ("bm25", words)) if id in order}
        assert each.ranks == expected
        parts = [scaled[name][id] for name in expected]
        assert each.score == pytest.approx(sum(parts) / 2, abs=1e-6)
        assert 0 <= each.score <= 1
    assert [(-each.score, each.place.point_id) for each in fused] == sorted(
        (-each.score, each.place.point_id) for each in fused
    )
    assert [each.place.point_id for each in fuse({"dense": places(dense)})] == [f"{id:04d}" for id in dense]


@given(st.permutations(range(900)), st.permutations(range(900)), st.integers(1, 900))
@settings(max_examples=15, deadline=None)
def test_how_deep_the_legs_are_read_decides_no_order(dense: list[int], words: list[int], wanted: int) -> None:
    """The best `wanted` of whole lists are those of lists that are just deep enough."""
    legs = {
        name: [Place(f"{id:04d}", 1 - n / 1000, f"{id}") for n, id in enumerate(ids)]
        for name, ids in (("dense", dense), ("bm25", words[:500]))
    }
    whole = paged(legs)
    deep = depth(wanted, 2)
    assert paged({name: places[:deep] for name, places in legs.items()})[:wanted] == whole[:wanted]
    scores = [each.score for each in whole]
    assert scores == sorted(scores, reverse=True)
    assert whole[:100] == fuse({name: places[:100] for name, places in legs.items()})[:100]
    assert len(whole) == 900
    assert paged({"dense": legs["dense"]}) == fuse({"dense": legs["dense"]})


def test_the_same_order_on_every_backend(tmp_path: Path) -> None:
    from tests.server_stores import local

    rows = list(texts())
    vectors = MODEL.embed([text for _, text in rows])
    points = [made(i, name, text) for i, (name, text) in enumerate(rows)]
    found = []
    for store in (EdgeStore(tmp_path), local()):
        sealed = replace(release(1, len(points)), space=MODEL.space)
        store.write(sealed, base=None, delete=[], add=list(zip(points, vectors, strict=True)))
        store.publish(1)
        with store.open() as opened:
            queries = [
                Query(text, 8, mode, exact=True, per_document=limit, diversity=spread)
                for text in ("the lantern and the copper", "violin violin meadow", "rights", "part 2 of text 7")
                for mode in ("dense", "bm25", "hybrid")
                for limit, spread in ((None, None), (1, None), (None, 0.4))
            ]
            found.append([r.as_dict() for r in search_many(opened, MODEL, queries)])
    assert found[0] == found[1]
    assert all(results["hits"] for results in found[0])


# ---------------------------------------------------------------- modes and legs
def test_modes_and_scores_by_leg(reader: Reader) -> None:
    text = "the glacier of text 11"
    by_mode = {mode: search(reader, MODEL, Query(text, 20, mode)).hits for mode in ("dense", "bm25", "hybrid")}  # type: ignore[arg-type]
    for mode in ("dense", "bm25"):
        assert [hit.ranks for hit in by_mode[mode][:3]] == [{mode: 1}, {mode: 2}, {mode: 3}]
        assert all(hit.scores == {mode: hit.score} for hit in by_mode[mode])
    legs = reader.rank([MODEL.embed_queries([text])[0].tolist(), text], 100)
    ends = {mode: (leg[-1].score, leg[0].score) for mode, leg in zip(("dense", "bm25"), legs, strict=True)}
    assert len(legs[1]) < 100
    ends["bm25"] = (0.0, ends["bm25"][1])
    for hit in by_mode["hybrid"]:
        parts = [(score - ends[mode][0]) / (ends[mode][1] - ends[mode][0]) for mode, score in hit.scores.items()]
        assert hit.score == pytest.approx(sum(parts) / 2, abs=1e-5)
        for mode, score in hit.scores.items():
            same = [other for other in by_mode[mode] if other.chunk_id == hit.chunk_id]
            assert all(other.score == score for other in same)
    assert search(reader, None, Query(text, 3, "bm25")).hits == by_mode["bm25"][:3]  # words need no model
    with pytest.raises(UsageError, match="encoder"):
        search(reader, None, Query(text))
    with pytest.raises(SpaceMismatch):
        search(reader, HashEmbedder(32), Query(text))


def test_many_at_once_are_as_one_by_one(reader: Reader) -> None:
    queries = [Query("glacier", 3), Query("violin", 5, "bm25"), Query("glacier", 4, "dense", filter={"meta.n": 7})]
    assert search_many(reader, MODEL, queries) == [search(reader, MODEL, query) for query in queries]
    assert search_many(reader, MODEL, []) == []


@given(st.integers(1, 12), st.sampled_from(["dense", "bm25", "hybrid"]), st.sampled_from([None, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_pages_are_parts_of_one_list(reader: Reader, k: int, mode: Any, limit: int | None) -> None:
    options: dict[str, Any] = {"mode": mode, "per_document": limit, "exact": True}
    whole = uris(reader, "the lantern is about the pepper", k=48, **options)
    paged = [
        uri for offset in range(0, 48, k) for uri in uris(reader, "the lantern is about the pepper", k=k,
                                                           offset=offset, **options)
    ]  # fmt: skip
    assert paged[:48] == whole


def test_passages_that_say_the_same_are_one_hit(reader: Reader) -> None:
    results = search(reader, MODEL, Query("rights reserved by the harbour company", 5, "bm25")).hits
    first = results[0]
    assert first.text == BOILERPLATE
    assert [hit.text for hit in results].count(BOILERPLATE) == 1
    assert {first.uri, *first.also} == {f"notes:/d{n}.md" for n in range(30)}
    scoped = search(reader, MODEL, Query("rights reserved", 5, scope={"tenant": "odd"})).hits[0]
    assert {scoped.uri, *scoped.also} == {f"notes:/d{n}.md" for n in range(1, 30, 2)}  # nothing of others is named
    apart = search(reader, MODEL, Query("rights reserved by the harbour company", 30, "bm25", collapse=False)).hits
    assert [hit.text for hit in apart] == [BOILERPLATE] * 30
    assert not any(hit.also for hit in apart)


def test_so_many_of_a_document(reader: Reader) -> None:
    for limit in (1, 2):
        hits = search(reader, MODEL, Query("is about the lantern", 40, per_document=limit)).hits
        counts = [sum(other.uri == hit.uri for other in hits) for hit in hits]
        assert max(counts) <= limit
    every = search(reader, MODEL, Query("is about the lantern", 30, per_document=1, collapse=False)).hits
    assert {hit.uri for hit in every} == {f"notes:/d{n}.md" for n in range(30)}  # deeper than the first candidates


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """500 passages in the long document, which all say more of lanterns than the others, and three in others."""
    store = EdgeStore(tmp_path_factory.mktemp("many") / "store")
    rows = [("long", f"Lantern {n}: {'lantern ' * (n % 7 + 1)} and matter {n % 37}.") for n in range(500)]
    rows += [
        (f"short{n}", f"In passing, a lantern is named beside glacier {n}, violins and other things.") for n in range(3)
    ]
    vectors = MODEL.embed([text for _, text in rows])
    points = [
        made(i, document, text, start=i * 100, end=i * 100 + len(text), page=None, groups=[], tenant="", meta={})
        for i, (document, text) in enumerate(rows)
    ]
    store.write(
        replace(release(1, len(points)), space=MODEL.space), base=None, delete=[],
        add=list(zip(points, vectors, strict=True)),
    )  # fmt: skip
    store.publish(1)
    with store.open() as opened:
        yield opened


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_pages_go_on_beyond_the_first_candidates(many: Reader, mode: Any) -> None:
    whole = search(many, MODEL, Query("lantern matter 5", 450, mode)).hits
    for k in (20, 150):
        pages = [search(many, MODEL, Query("lantern matter 5", k, mode, offset=o)).hits for o in range(0, 450, k)]
        assert [hit for page in pages for hit in page][:450] == list(whole)


def test_a_document_below_the_pool_is_found_when_one_of_each_is_wanted(many: Reader, cross_encoder: Path) -> None:
    query = Query("lantern", 4, "bm25", per_document=1)
    for reordered in (replace(query, diversity=0.5), replace(query, rerank=str(cross_encoder))):
        assert len({hit.document_id for hit in search(many, MODEL, reordered).hits}) == 4


def test_a_least_score_does_not_make_the_reranker_read_everything(
    many: Reader, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    scores = rerank.scores
    monkeypatch.setattr(
        rerank, "scores", lambda model, query, texts: read.append(len(texts)) or scores(model, query, texts)
    )
    assert not search(many, MODEL, Query("lantern", 10, rerank=str(cross_encoder), min_score=1e9)).hits
    assert search(many, MODEL, Query("lantern", 10, rerank=str(cross_encoder), per_document=1)).hits
    assert read[0] == 50
    assert read[1] <= 60


def test_neighbours(reader: Reader) -> None:
    middle = next(h for h in search(reader, MODEL, Query("Part 1 of text 9", 20, expand=1)).hits if h.start == 100)
    assert [p.start for p in (*middle.before, *middle.after)] == [0, 200]
    first = next(h for h in search(reader, MODEL, Query("Part 0 of text 9", 20, expand=2)).hits if h.start == 0)
    assert not first.before
    assert [p.start for p in first.after] == [100, 200]
    assert all(p.text for p in first.after)
    plain = search(reader, MODEL, Query("Part 0 of text 9")).hits[0]
    assert not plain.before
    assert not plain.after


def test_a_least_score(reader: Reader) -> None:
    for mode in ("dense", "bm25", "hybrid"):
        scores = [hit.score for hit in search(reader, MODEL, Query("the violin of text 3", 20, mode)).hits]  # type: ignore[arg-type]
        bound = scores[4]
        kept = search(reader, MODEL, Query("the violin of text 3", 20, mode, min_score=bound)).hits  # type: ignore[arg-type]
        assert [hit.score for hit in kept] == [score for score in scores if score >= bound]
    assert not search(reader, MODEL, Query("violin", mode="dense", min_score=2.0)).hits


def test_diversity(reader: Reader) -> None:
    same = Query("about the lantern and the copper", 8, "dense")
    assert search(reader, MODEL, replace(same, diversity=0.0)) == search(reader, MODEL, same)
    plain, spread = (search(reader, MODEL, replace(same, diversity=d)).hits for d in (None, 0.7))
    assert plain[0] == spread[0]

    def likeness(hits: Any) -> float:
        vectors = MODEL.embed([hit.text for hit in hits])
        return float((vectors @ vectors.T).sum() - len(hits))

    assert likeness(spread) < likeness(plain)


@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_marginal_relevance_is_greedy(n: int, spread: float, seed: int) -> None:
    """Beside the definition, written down plainly."""
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((n, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.round(chance.random(n), 3).tolist()
    found = diversity.order(scores, list(vectors), spread)
    assert sorted(found) == list(range(n))
    low, high = min(scores), max(scores)
    relevance = [(s - low) / (high - low) if high > low else 1.0 for s in scores]
    for step, chosen in enumerate(found):

        def gain(i: int, before: list[int] = found[:step]) -> float:
            near = max((float(vectors[i] @ vectors[j]) for j in before), default=0.0)
            return (1 - spread) * relevance[i] - spread * near

        assert gain(chosen) >= max(map(gain, found[step:])) - 1e-4


def test_a_filter_and_a_scope_both_hold(reader: Reader) -> None:
    hits = search(reader, MODEL, Query("lantern", 50, filter={"meta.n": {"lt": 10}}, scope=scope("odd"))).hits
    assert hits
    assert {hit.meta["n"] for hit in hits} <= {1, 3, 5, 7, 9}
    assert not search(reader, MODEL, Query("lantern", filter={"tenant": "even"}, scope=scope("odd"))).hits
    assert not search(reader, MODEL, Query("lantern", scope=scope(""))).hits
    assert scope(None) is None
    assert scope("a", []) == {"tenant": "a", "any": [{"groups": {"exists": False}}, {"groups": {"in": []}}]}


# ---------------------------------------------------------------- reranking
@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one with chance weights, made here."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("reranker")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789", "."]
    words += ["##" + word for word in words[5:]]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=1, max_position_embeddings=128,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "raw")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "raw")
    CrossEncoder(str(folder / "raw")).save_pretrained(str(folder / "model"))
    return folder / "model"


def test_reranking(reader: Reader, cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    query = Query("the glacier of text 11", 10, rerank=str(cross_encoder))
    hits = search(reader, MODEL, query).hits
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    plain = CrossEncoder(str(cross_encoder))
    expected = plain.predict([(query.text, f"{hit.title}\n{hit.text}") for hit in hits])
    assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=1e-5)
    assert all(hit.scores["rerank"] == hit.score for hit in hits)
    pool = search(reader, MODEL, replace(query, k=50, rerank=None)).hits
    assert {hit.chunk_id for hit in hits} <= {hit.chunk_id for hit in pool}
    paged = [
        *search(reader, MODEL, replace(query, k=5)).hits,
        *search(reader, MODEL, replace(query, k=5, offset=5)).hits,
    ]
    assert paged == list(hits)
    single = search(reader, MODEL, replace(query, per_document=1)).hits
    assert len({hit.uri for hit in single}) == 10
    with pytest.raises(ModelError, match="no such folder"):
        search(reader, MODEL, replace(query, rerank="./nowhere/at/all"))
    broken = cross_encoder.parent / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        search(reader, MODEL, replace(query, rerank=str(broken)))


def test_reranking_without_the_package(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match="sentence-transformers"):
        search(reader, MODEL, Query("glacier", rerank="some/other-model"))


# ---------------------------------------------------------------- documents and contexts
def test_documents_and_chunks(reader: Reader) -> None:
    found = document(reader, "notes:/d4.md")
    assert found is not None
    assert found == document(reader, found.document_id)
    assert [p.start for p in found.passages] == [0, 100, 200, 300]
    assert all(found.text[p.start : p.end] == p.text for p in found.passages)
    assert document(reader, "notes:/nothing.md") is None
    assert document(reader, "notes:/d4.md", scope("odd")) is None
    hit = chunk(reader, found.passages[1].chunk_id)
    assert hit is not None
    assert (hit.uri, hit.start) == ("notes:/d4.md", 100)
    assert chunk(reader, found.passages[1].chunk_id, scope("odd")) is None
    assert chunk(reader, "nothing") is None


def test_a_context_fits(reader: Reader) -> None:
    def count(texts: Any) -> list[int]:
        return [len(text.split()) for text in texts]

    hits = search(reader, MODEL, Query("about the lantern", 12, expand=1)).hits
    for budget in (0, 10, 25, 60, 200, 10_000):
        told = context(hits, count, budget)
        assert told.tokens <= budget
        assert count([told.text])[0] <= budget
        assert [citation.number for citation in told.citations] == list(range(1, len(told.citations) + 1))
        for citation in told.citations:
            hit = next(hit for hit in hits if hit.chunk_id == citation.chunk_id)
            assert hit.text in told.text
            assert citation.start <= hit.start < hit.end <= citation.end
            assert f"[{citation.number}] {citation.title} ({citation.uri})" in told.text
        assert budget < 10_000 or told.left_out == 0
    unique = [line for line in told.text.splitlines() if line.startswith("Part")]
    assert len(unique) == len(set(unique))  # what stands around two hits is said once
    assert context([], count, 100).text == ""


# ---------------------------------------------------------------- why
def test_why(reader: Reader) -> None:
    text = "the glacier of text 11"
    best = search(reader, MODEL, Query(text, 3)).hits[0]

    def verdict(uri: str, **options: Any) -> str:
        return why(reader, MODEL, Query(text, **options), uri).verdict

    assert verdict(best.uri, k=3) == "hit"
    assert verdict("notes:/nothing.md") == "missing"
    assert verdict("notes:/d11.md", scope=scope("even")) == "permission"
    assert verdict(best.uri, filter={"meta.n": 99}) == "filter"
    assert verdict(best.uri, k=3, mode="dense", min_score=0.999) == "min_score"
    assert verdict(best.uri, k=3, offset=20, mode="bm25", per_document=1) == "cut"  # on a page before
    low = next(f"notes:/d{n}.md" for n in range(30) if verdict(f"notes:/d{n}.md", k=1) == "cut")
    explained = why(reader, MODEL, Query(text, 1), low)
    assert explained.rank is not None
    assert explained.rank > 1
    assert explained.legs is not None
    assert explained.legs["dense"]["rank"] >= 1
    assert explained.best is not None
    assert explained.best.uri == low
    json.dumps(explained.as_dict())
    only = why(reader, MODEL, Query("zeppelin glacier", 3, "bm25"), "notes:/d5.md")
    assert (only.verdict == "unfound") == ("glacier" not in " ".join(t for d, t in texts() if d == "d5"))
    rights = [why(reader, MODEL, Query("rights reserved", 1, "bm25"), f"notes:/d{n}.md").verdict for n in range(30)]
    assert sorted(set(rights)) == ["collapsed", "hit"]
    rejected = {"uri": "notes:/x.pdf", "stage": "parse", "code": "encrypted", "reason": "locked", "hint": "unlock it"}
    told = why(reader, MODEL, Query(text), "notes:/x.pdf", [rejected])
    assert (told.verdict, "encrypted" in told.said, "unlock it" in told.said) == ("missing", True, True)


def test_why_knows_paths_and_names_of_old(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus)
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing else")
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    with Workspace.open(tmp_path / "kb") as workspace:
        workspace.ingest(corpus)
        assert workspace.why("penguins", "notes.txt").uri == "corpus:/notes.txt"
        assert "rejected (parse" in workspace.why("penguins", "broken.pdf").said
        assert workspace.why("penguins", "nothing.txt").said == "release 1 has no document of this uri"
        (corpus / "notes.txt").rename(corpus / "cafe\u0301.txt")
        workspace.ingest()
        now = workspace.why("penguins", "corpus:/notes.txt")
        assert (now.verdict, now.uri) == ("hit", "corpus:/caf\xe9.txt")
        assert "corpus:/notes.txt" in now.said
        assert workspace.why("penguins", "corpus:/cafe\u0301.txt").verdict == "hit"
        assert workspace.why("penguins", "corpus:/caf\xe9.txt", release=1).uri == "corpus:/notes.txt"


# ---------------------------------------------------------------- recall
def test_recall_of_nothing_is_not_perfect(reader: Reader, tmp_path: Path) -> None:
    vectors = recall.sample(reader, 3)
    assert len(vectors) == 3
    assert recall.measure(reader, vectors, 5).mean == 1.0
    with pytest.raises(UsageError, match="nothing to measure"):
        recall.measure(reader, vectors, 5, {"meta.n": 99})
    with pytest.raises(UsageError, match="count is 0"):
        recall.sample(reader, 0)
    store = EdgeStore(tmp_path)
    store.write(replace(release(1, 0), space=MODEL.space), base=None, delete=[], add=[])
    store.publish(1)
    with store.open() as empty:
        assert recall.sample(empty, 5) == []
        with pytest.raises(UsageError, match="nothing to measure"):
            recall.measure(empty, vectors, 5)


# ---------------------------------------------------------------- the command line
def run(*arguments: str, at: Path) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ragops", *arguments, "--json"], cwd=at, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def test_search_why_and_recall_from_the_command_line(ingested: Workspace) -> None:
    at = ingested.root
    code, found = run("search", "penguins swim", "--expand", "1", "--per-document", "1", at=at)
    assert (code, found["mode"], found["hits"][0]["uri"]) == (0, "hybrid", "corpus:/notes.txt")
    assert set(found["hits"][0]["scores"]) == {"dense", "bm25"}
    code, found = run("search", "penguins", "-m", "bm25", "--tenant", "acme", at=at)
    assert (code, found["hits"]) == (0, [])
    code, found = run("search", "penguins", "-m", "bm25", "--tenant", "", "--groups", "", at=at)
    assert len(found["hits"]) == 1
    assert run("search", "penguins", "-m", "both", at=at)[0] == 2
    code, told = run("why", "penguins", "corpus:/page.html", "-k", "1", "-m", "bm25", at=at)
    assert (code, told["verdict"]) == (0, "unfound")
    code, told = run("why", "penguins", "corpus:/notes.txt", at=at)
    assert (code, told["verdict"], told["release"]) == (0, "hit", 1)
    code, measured = run("recall", "-n", "5", "-k", "2", at=at)
    assert (code, measured["mean"], measured["queries"]) == (0, 1.0, min(5, measured["queries"]))
    questions = at / "questions.txt"
    questions.write_text("penguins\n\nprices\n", "utf-8-sig")
    assert run("recall", "--queries", str(questions), at=at)[1]["queries"] == 2
    assert run("recall", "--queries", "nowhere.txt", at=at)[0] == 2
    questions.write_text("\n")
    assert run("recall", "--queries", str(questions), at=at)[0] == 2


def test_words_need_no_model_on_disk(ingested: Workspace) -> None:
    import shutil

    shutil.rmtree(ingested.data / "models")
    assert ingested.search("penguins", mode="bm25").hits
    with pytest.raises(RagopsError):
        ingested.search("penguins")


def test_the_mode_of_params(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    params = tmp_path / "kb/params.yaml"
    params.write_text(params.read_text().replace("  k: 10\n  mode: hybrid", "  k: 10\n  mode: bm25"))
    with Workspace.open(tmp_path / "kb") as workspace:
        workspace.ingest(tmp_path / "corpus")
        assert workspace.search("penguins").mode == "bm25"
        assert workspace.search("penguins", mode="dense").mode == "dense"
