"""Nobody sees what is not theirs: random askers and requests on every route, against a plain statement of the rules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragops.retrieval.query import Query
from ragops.retrieval.scope import scope
from ragops.retrieval.search import search
from ragops.service import app as application
from ragops.workspace import Workspace
from tests.served import OWNERS, key, sees, workspace

EXAMPLES = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TENANTS: list[str | None] = [None, *dict.fromkeys(tenant for tenant, _ in OWNERS), "nobody"]
GROUPS: list[tuple[str, ...] | None] = [
    None, (), ("hr",), ("staff",), ("hr", "staff"), ("a,b",), ("a", "b"), ("Ω",), ("*",)
]  # fmt: skip
ASKERS = list(itertools.product(TENANTS, GROUPS))


@dataclass(frozen=True)
class Place:
    client: TestClient
    headers: dict[tuple[str | None, tuple[str, ...] | None], dict[str, str]]
    owner: dict[str, tuple[str, tuple[str, ...]]]  # by uri
    documents: dict[str, str]  # uri -> document id
    chunks: dict[str, str]  # chunk id -> uri


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = workspace(tmp_path_factory.mktemp("tenants"))
    owner: dict[str, tuple[str, tuple[str, ...]]] = {}
    documents: dict[str, str] = {}
    chunks: dict[str, str] = {}
    for _, payload, _ in found.reader().points():
        owner[payload["uri"]] = (payload["tenant"], tuple(payload["groups"]))
        documents[payload["uri"]] = payload["document_id"]
        chunks[payload["chunk_id"]] = payload["uri"]
    assert sorted(set(owner.values())) == sorted((t, tuple(sorted(g))) for t, g in OWNERS)
    headers = {
        (tenant, groups): key(found.root, f"k{n}", tenant=tenant, groups=groups)
        for n, (tenant, groups) in enumerate(ASKERS)
    }
    with TestClient(application.make(found.root)) as client:
        yield Place(client, headers, owner, documents, chunks)


askers = st.sampled_from(ASKERS)
wishes = st.sampled_from([*(t for t in TENANTS if t is not None), "acme' OR '1'='1", "%", "acme*", "", "\x00"])


def tenant_filters() -> st.SearchStrategy[dict[str, Any]]:
    """What a client may try: other tenants, everything, anything but its own, nested and turned round."""
    simple = st.one_of(
        st.builds(lambda t: {"tenant": t}, wishes),
        st.builds(lambda ts: {"tenant": {"in": ts}}, st.lists(wishes, max_size=4)),
        st.builds(lambda yes: {"tenant": {"exists": yes}}, st.booleans()),
        st.builds(lambda yes: {"groups": {"exists": yes}}, st.booleans()),
        st.builds(lambda g: {"groups": g}, st.sampled_from(["hr", "staff", "Ω", "*", ""])),
        st.builds(lambda n: {"source": f"s{n}"}, st.integers(0, len(OWNERS))),
        st.just({"meta.ext": "md"}),
        st.just({"meta.tenant": "acme"}),
        st.builds(lambda u: {"uri": f"s{u}:/a.md"}, st.integers(0, len(OWNERS))),
    )
    return st.recursive(
        simple, lambda inner: st.builds(lambda fs: {"any": fs}, st.lists(inner, min_size=1, max_size=3)), max_leaves=6
    )


texts = st.one_of(
    st.builds(lambda n: f"marker{n}", st.integers(0, len(OWNERS))),
    st.sampled_from(["penguins swim", "fish", 'tenant:"acme"', '"}, "tenant": "globex', "* OR tenant", "hr staff"]),
)
bodies = st.fixed_dictionaries(
    {"text": texts, "k": st.sampled_from([1, 5, 100])},
    optional={
        "mode": st.sampled_from(["dense", "bm25", "hybrid"]),
        "filter": tenant_filters(),
        "offset": st.integers(0, 5),
        "expand": st.integers(0, 2),
        "exact": st.booleans(),
        "per_document": st.just(1),
        "diversity": st.sampled_from([0.0, 0.5]),
        "collapse": st.booleans(),
        "release": st.just(1),
    },
)


def check_hits(place: Place, asker: tuple[str | None, tuple[str, ...] | None], hits: list[dict[str, Any]]) -> None:
    for hit in hits:
        uris = [hit["uri"], *hit["also"], *(place.chunks[p["chunk_id"]] for p in (*hit["before"], *hit["after"]))]
        for uri in uris:
            assert sees(*asker, place.owner[uri]), (asker, uri, place.owner[uri])


@EXAMPLES
@given(asker=askers, body=bodies)
def test_search(place: Place, asker: tuple[str | None, tuple[str, ...] | None], body: dict[str, Any]) -> None:
    answer = place.client.post("/v1/search", json=body, headers=place.headers[asker])
    assert answer.status_code == 200, answer.text
    check_hits(place, asker, answer.json()["hits"])


@EXAMPLES
@given(asker=askers, queries=st.lists(bodies.map(lambda b: {k: v for k, v in b.items() if k != "release"}), min_size=1, max_size=3))  # noqa: E501  # fmt: skip
def test_batch(place: Place, asker: tuple[str | None, tuple[str, ...] | None], queries: list[dict[str, Any]]) -> None:
    answer = place.client.post("/v1/search/batch", json={"queries": queries}, headers=place.headers[asker])
    assert answer.status_code == 200, answer.text
    for each in answer.json()["results"]:
        check_hits(place, asker, each["hits"])


@EXAMPLES
@given(asker=askers, data=st.data(), by_uri=st.booleans())
def test_documents(place: Place, asker: tuple[str | None, tuple[str, ...] | None], data: Any, by_uri: bool) -> None:
    uri = data.draw(st.sampled_from(sorted(place.owner)))
    path = "/v1/documents" if by_uri else f"/v1/documents/{place.documents[uri]}"
    answer = place.client.get(path, params={"uri": uri} if by_uri else {}, headers=place.headers[asker])
    assert answer.status_code == (200 if sees(*asker, place.owner[uri]) else 404)
    assert (uri in answer.text) is (answer.status_code == 200)


@EXAMPLES
@given(asker=askers, data=st.data(), expand=st.integers(0, 2))
def test_chunks(place: Place, asker: tuple[str | None, tuple[str, ...] | None], data: Any, expand: int) -> None:
    chunk = data.draw(st.sampled_from(sorted(place.chunks)))
    uri = place.chunks[chunk]
    named = data.draw(st.sampled_from([uri, *sorted(place.owner)]))
    path = f"/v1/documents/{place.documents[named]}/chunks/{chunk}"
    answer = place.client.get(path, params={"expand": expand}, headers=place.headers[asker])
    assert answer.status_code == (200 if named == uri and sees(*asker, place.owner[uri]) else 404)
    assert (uri in answer.text) is (answer.status_code == 200)


@EXAMPLES
@given(asker=askers, data=st.data())
def test_feedback(place: Place, asker: tuple[str | None, tuple[str, ...] | None], data: Any) -> None:
    chunk = data.draw(st.sampled_from(sorted(place.chunks)))
    uri = place.chunks[chunk]
    named = data.draw(st.sampled_from([uri, *sorted(place.owner)]))
    body = {"document_id": place.documents[named], "chunk_id": chunk, "relevant": True}
    answer = place.client.post("/v1/feedback", json=body, headers=place.headers[asker])
    assert answer.status_code == (201 if named == uri and sees(*asker, place.owner[uri]) else 404)


def test_everything_that_may_be_seen_is_found(place: Place) -> None:
    """The other half: a filter that let nothing through would leak nothing, too."""
    for asker, headers in place.headers.items():
        body = {"text": "penguins", "k": 100, "collapse": False}
        found = {hit["uri"] for hit in place.client.post("/v1/search", json=body, headers=headers).json()["hits"]}
        assert found == {uri for uri, owner in place.owner.items() if sees(*asker, owner)}, asker


def test_scores_do_not_depend_on_the_documents_of_others(tmp_path: Path) -> None:
    """BM25 counts how rare a word is among what the asker may see."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    both.mkdir()
    first = workspace(both)
    params = first.root / "params.yaml"
    text = params.read_text("utf-8")
    one = OWNERS.index(("globex", ()))
    Workspace.create(alone / "kb")
    start, end = text.index("sources:"), text.index("parse:")
    entry = f"sources:\n  - name: s{one}\n    path: {both}/s{one}\n    tenant: globex\n\n"
    (alone / "kb/params.yaml").write_text(text[:start] + entry + text[end:], "utf-8")
    second = Workspace.open(alone / "kb")
    second.ingest()
    for mode in ("bm25", "dense", "hybrid"):
        asked = Query("which penguins swim, marker5 or fish?", 10, mode=mode, exact=True)  # type: ignore[arg-type]
        answers = []
        for found in (first, second):
            reader = found.reader()
            theirs = Query(asked.text, asked.k, mode=asked.mode, exact=True, scope=scope("globex", ()))
            hits = search(reader, found.encoder(reader.release), theirs).hits
            answers.append([(hit.uri, hit.score, hit.scores) for hit in hits])
        assert answers[0] == answers[1], mode
        assert answers[0], mode


def test_permissions_of_today_hold_for_a_running_service(tmp_path: Path) -> None:
    found = workspace(tmp_path)
    headers = key(found.root, "acme", tenant="acme")
    n = OWNERS.index(("acme", ()))
    with TestClient(application.make(found.root), headers=headers) as client:
        ask = {"uri": f"s{n}:/a.md"}
        assert client.get("/v1/documents", params=ask).status_code == 200
        params = found.root / "params.yaml"
        old = f'path: ../s{n}\n    tenant: "acme"'
        assert old in params.read_text("utf-8")
        params.write_text(params.read_text("utf-8").replace(old, old.replace("acme", "other")), "utf-8")
        assert Workspace.open(found.root).ingest().release == 1, "no new release"
        assert client.get("/v1/documents", params=ask).status_code == 404
        body = {"text": f"marker{n}", "k": 100, "filter": {"source": f"s{n}"}}
        assert client.post("/v1/search", json=body).json()["hits"] == []
