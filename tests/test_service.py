"""The service's routes: what they give, what they refuse, and what is told of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ragops.config import ServeSettings
from ragops.errors import StoreError
from ragops.keys import Keys
from ragops.service import app as application
from ragops.service.audit import Log
from ragops.service.service import Service
from ragops.workspace import Workspace
from tests.conftest import copy
from tests.served import key, settings, workspace
from tests.test_search import cross_encoder  # noqa: F401  a fixture

HEX = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    workspace(place)
    return place


@pytest.fixture
def root(_made: Path, tmp_path: Path) -> Path:
    copy(_made, tmp_path)
    return tmp_path / "kb"


@pytest.fixture
def everything(root: Path) -> dict[str, str]:
    return key(root)


@pytest.fixture
def client(root: Path, everything: dict[str, str]) -> Iterator[TestClient]:
    """Asks with a key for everything."""
    with TestClient(application.make(root), headers=everything) as found:
        yield found


def audit(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / ".ragops/log/audit.jsonl").read_text("utf-8").splitlines()]


def error(response: Any, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    found: dict[str, str] = response.json()["error"]
    assert found["message"]
    assert set(found) <= {"message", "hint", "field"}
    return found


# ---------------------------------------------------------------- what is given
def test_a_search_gives_what_the_library_gives(root: Path, client: TestClient) -> None:
    body = {"text": "what do penguins eat?", "k": 4, "mode": "hybrid", "per_document": 1, "expand": 1, "offset": 1}
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200
    with Workspace.open(root) as found:
        body["query"] = body.pop("text")
        expected = found.search(**body)  # type: ignore[arg-type]
    assert answer.json() == json.loads(json.dumps(expected.as_dict()))
    assert len(answer.json()["hits"]) == 4


def test_a_batch_is_its_queries(client: TestClient) -> None:
    queries = [{"text": "penguins", "k": 2}, {"text": "fish", "mode": "bm25"}, {"text": "dive", "mode": "dense"}]
    answer = client.post("/v1/search/batch", json={"queries": queries})
    assert answer.status_code == 200
    assert answer.json()["release"] == 1
    assert answer.json()["results"] == [client.post("/v1/search", json=query).json() for query in queries]


def test_a_document_and_its_chunks(client: TestClient) -> None:
    hit = client.post("/v1/search", json={"text": "marker3", "mode": "bm25", "k": 1}).json()["hits"][0]
    by_id = client.get(f"/v1/documents/{hit['document_id']}")
    assert by_id.status_code == 200
    assert client.get("/v1/documents", params={"uri": hit["uri"]}).json() == by_id.json()
    document = by_id.json()
    assert document["uri"] == hit["uri"] == "s3:/a.md"
    assert document["total"] == len(document["chunks"]) >= 1
    assert document["next"] is None
    chunk = client.get(f"/v1/documents/{hit['document_id']}/chunks/{hit['chunk_id']}").json()
    assert {name: chunk[name] for name in ("text", "start", "end", "uri")} == {
        name: hit[name] for name in ("text", "start", "end", "uri")
    }
    other = client.get(f"/v1/documents/{'0' * 64}/chunks/{hit['chunk_id']}")
    assert "chunk" in error(other, 404)["message"]


def test_a_long_document_comes_in_parts(root: Path, tmp_path: Path, everything: dict[str, str]) -> None:
    text = "\n\n".join(f"## Part {n}\n\n" + f"word{n} " * 100 for n in range(12))
    (tmp_path / "s0/long.md").write_text(text, "utf-8")
    Workspace.open(root).ingest()
    with TestClient(application.make(root), headers=everything) as client:
        ask = {"uri": "s0:/long.md", "limit": 5}
        first = client.get("/v1/documents", params=ask).json()
        assert len(first["chunks"]) == 5
        assert first["next"] == 5
        chunks, at = first["chunks"], first["next"]
        while at is not None:
            part = client.get("/v1/documents", params={**ask, "offset": at}).json()
            chunks, at = chunks + part["chunks"], part["next"]
        assert len(chunks) == first["total"] > 10
        assert [c["start"] for c in chunks] == sorted(c["start"] for c in chunks)
        path = f"/v1/documents/{first['document_id']}/chunks/{chunks[5]['chunk_id']}"
        middle = client.get(path, params={"expand": 2}).json()
        assert middle["before"] == chunks[3:5]
        assert middle["after"] == chunks[6:8]


def test_feedback_is_kept(root: Path, client: TestClient) -> None:
    answer = client.post("/v1/search", json={"text": "marker2", "k": 1})
    hit = answer.json()["hits"][0]
    body = {
        "document_id": hit["document_id"], "chunk_id": hit["chunk_id"], "relevant": True,
        "request": answer.headers["x-request-id"], "comment": "yes",
    }  # fmt: skip
    stored = client.post("/v1/feedback", json=body)
    assert stored.status_code == 201
    (line,) = (root / ".ragops/feedback.jsonl").read_text("utf-8").splitlines()
    kept = json.loads(line)
    assert kept["id"] == stored.json()["id"] == stored.headers["x-request-id"]
    assert kept["uri"] == hit["uri"]
    assert kept["relevant"] is True
    assert kept["request"] == answer.headers["x-request-id"]
    assert (root / ".ragops/feedback.jsonl").stat().st_mode & 0o077 == 0


def test_releases(root: Path, client: TestClient) -> None:
    (one,) = client.get("/v1/releases").json()
    assert one["number"] == 1
    assert one["points"] > 0
    assert client.get("/v1/releases/live").json() == one
    plain = key(root, "plain", tenant="acme", scopes=["read"])
    (told,) = client.get("/v1/releases", headers=plain).json()
    assert set(told) == {"number", "live", "held", "created", "model"}, "how much others have is theirs"


def test_a_kept_release_can_be_asked(root: Path, tmp_path: Path, everything: dict[str, str]) -> None:
    (tmp_path / "s0/new.md").write_text("# Owls\n\nOwls fly at night.\n", "utf-8")
    assert Workspace.open(root).ingest().release == 2
    with TestClient(application.make(root), headers=everything) as client:
        ask = {"text": "owls", "mode": "bm25"}
        assert client.post("/v1/search", json=ask).json()["hits"][0]["uri"] == "s0:/new.md"
        assert client.post("/v1/search", json={**ask, "release": 1}).json() == {
            "release": 1, "query": "owls", "mode": "bm25", "hits": []
        }  # fmt: skip
        batch = client.post("/v1/search/batch", json={"queries": [ask, ask], "release": 1}).json()
        assert [batch["release"], *(each["release"] for each in batch["results"])] == [1, 1, 1]
        error(client.get("/v1/documents", params={"uri": "s0:/new.md", "release": 1}), 404)
        assert client.get("/v1/documents", params={"uri": "s0:/new.md", "release": 2}).status_code == 200
        assert error(client.post("/v1/search", json={**ask, "release": 9}), 404)["field"] == "release"


def test_health_and_readiness_need_no_key(root: Path) -> None:
    with TestClient(application.make(root)) as client:
        assert client.get("/healthz").json() == {"ok": True}
        assert client.get("/readyz").json() == {"ready": True, "release": 1, "model": "hash:64"}
        assert client.get("/openapi.json").status_code == 200
        error(client.post("/v1/search", json={"text": "penguins"}), 401)


def test_not_ready_without_a_release(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "kb")
    headers = key(tmp_path / "kb")
    with TestClient(application.make(tmp_path / "kb"), headers=headers) as client:
        assert client.get("/healthz").status_code == 200
        for answer in (client.get("/readyz"), client.post("/v1/search", json={"text": "penguins"})):
            assert "no release" in error(answer, 503)["message"]
            assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/v1/releases").json() == []
        error(client.get("/v1/releases/live"), 404)


def test_metrics_count(client: TestClient) -> None:
    for _ in range(3):
        client.post("/v1/search", json={"text": "penguins"})
    client.post("/v1/search/batch", json={"queries": [{"text": "a", "mode": "bm25"}, {"text": "b", "mode": "bm25"}]})
    client.post("/v1/search", json={"text": ""})
    text = client.get("/metrics").text
    assert 'ragops_requests_total{route="/v1/search",status="200"} 3.0' in text
    assert 'ragops_requests_total{route="/v1/search",status="422"} 1.0' in text
    assert 'ragops_queries_total{mode="bm25"} 2.0' in text
    assert 'ragops_queries_total{mode="hybrid"} 3.0' in text
    assert "ragops_release 1.0" in text
    assert "ragops_requests_running 0.0" in text
    assert 'ragops_request_seconds_count{route="/v1/search"} 4.0' in text


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"text": "x", "kk": 1}, "kk", "no field 'kk'"),
        ({"text": "x", "scope": {"tenant": "acme"}}, "scope", "no field 'scope'"),
        ({"text": "x", "tenant": "acme"}, "tenant", "no field 'tenant'"),
        ({}, "text", "missing"),
        ({"text": ""}, "text", "at least 1"),
        ({"text": " \n\t"}, "text", "empty"),
        ({"text": 3}, "text", "string"),
        ({"text": None}, "text", "string"),
        ({"text": ["x"]}, "text", "string"),
        ({"text": "x" * 4001}, "text", "4001 characters; it takes 4000"),
        ({"text": "x", "k": 0}, "k", "greater than or equal to 1"),
        ({"text": "x", "k": -1}, "k", "greater than or equal to 1"),
        ({"text": "x", "k": 101}, "k", "at most 100"),
        ({"text": "x", "k": 1_000_000}, "k", "10000"),
        ({"text": "x", "k": 10**30}, "k", ""),
        ({"text": "x", "k": "5"}, "k", "integer"),
        ({"text": "x", "k": 2.5}, "k", "integer"),
        ({"text": "x", "k": True}, "k", "integer"),
        ({"text": "x", "offset": 1001}, "offset", "at most 1000"),
        ({"text": "x", "offset": -1}, "offset", "0"),
        ({"text": "x", "mode": "magic"}, "mode", "'dense', 'bm25' or 'hybrid'"),
        ({"text": "x", "expand": 21}, "expand", "20"),
        ({"text": "x", "diversity": 1.5}, "diversity", "1"),
        ({"text": "x", "min_score": "high"}, "min_score", "number"),
        ({"text": "x", "per_document": 0}, "per_document", "1"),
        ({"text": "x", "exact": 1}, "exact", "boolean"),
        ({"text": "x", "rerank": "/etc"}, "rerank", "no reranker of that name here"),
        ({"text": "x", "rerank": "cross-encoder/ms-marco-MiniLM-L6-v2"}, "rerank", "no reranker"),
        ({"text": "x", "filter": []}, "filter", "dictionary"),
        ({"text": "x", "filter": "tenant=acme"}, "filter", "dictionary"),
        ({"text": "x", "filter": {"tenat": "acme"}}, "filter", "no field 'tenat'"),
        ({"text": "x", "filter": {"page": {"gt": 3}}}, "filter", "does not know 'gt'"),
        ({"text": "x", "filter": {"must": [{"key": "tenant"}]}}, "filter", "no field 'must'"),
        ({"text": "x", "filter": {"tenant": {"$ne": "acme"}}}, "filter", "does not know '$ne'"),
        ({"text": "x", "filter": {"any": []}}, "filter", "at least one"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(client: TestClient, body: dict[str, Any], field: str, says: str) -> None:
    found = error(client.post("/v1/search", json=body), 422)
    assert found["field"] == field
    assert says in found["message"]
    found = error(client.post("/v1/search/batch", json={"queries": [{"text": "fine"}, body]}), 422)
    assert found["field"] == f"queries.1.{field}"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"\x00\xff\xfe", b'{"text": "\xff"}', b'{"text": "\\ud800"}',
        b'{"text": NaN}', b'{"text": "x", "min_score": NaN}', b'{"text": "x", "min_score": Infinity}',
        b'{"text": "x", "min_score": 1e999}', b"[" * 50_000, b'{"text": "x", "k": ' + b"9" * 5000 + b"}",
        b'{"text": "x", "filter": ' + b'{"any": [' * 400 + b"{}" + b"]}" * 400 + b"}",
        b'{"text": "x", "filter": {"meta.a": NaN}}', b'{"text": "x", "filter": {"meta.\\ud800": 1}}',
        b'{"text": "x", "filter": {"meta.a": "\\ud800"}}', b'{"text": "x", "filter": {"page": 1e400}}',
        b'{"text": "x", "filter": {"meta.a": 99999999999999999999999}}',
        b'{"text": "x", "filter": {"meta.a": {"gte": 1e308, "lt": -1e308}}}',
    ],
)  # fmt: skip
def test_broken_bodies_are_no_server_errors(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/search", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code != 200:
        error(answer, answer.status_code)


@pytest.mark.parametrize(
    "text",
    [
        "\x00", "\x00\x01\x02 penguins \x7f", "' OR 1=1 --", '{"tenant": "acme"}', "\u202e\u200b\ufeff", "a" * 4000,
             "😀" * 2000, "x\n" * 2000, "${jndi:ldap://x}", "<script>alert(1)</script>", "../../etc/passwd", "*", "\\",
    ],
)  # fmt: skip
def test_any_text_is_a_query(client: TestClient, text: str) -> None:
    answer = client.post("/v1/search", json={"text": text})
    assert answer.status_code == 200, answer.text
    assert answer.json()["query"] == text


def test_a_body_that_is_no_json(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        found = error(client.post("/v1/search", content=b'{"text": "x"}', headers={"Content-Type": kind}), 422)
        assert "application/json" in found["hint"], kind


def test_large_bodies_are_refused_before_they_are_read(client: TestClient) -> None:
    assert "262144 bytes" in error(client.post("/v1/search", content=b"x" * 300_000), 413)["message"]

    def parts() -> Iterator[bytes]:  # without a Content-Length
        for _ in range(400):
            yield b"x" * 1000

    error(client.post("/v1/search", content=parts()), 413)
    error(client.post("/v1/search", content=b"{}", headers={"Content-Length": "-1"}), 413)


def test_batches_are_bounded(client: TestClient) -> None:
    found = error(client.post("/v1/search/batch", json={"queries": [{"text": "x"}] * 65}), 422)
    assert found["field"] == "queries"
    error(client.post("/v1/search/batch", json={"queries": []}), 422)
    inner = {"queries": [{"text": "x", "release": 1}]}
    assert error(client.post("/v1/search/batch", json=inner), 422)["field"] == "queries.0.release"


def test_what_is_not_there(client: TestClient) -> None:
    for path in (
        f"/v1/documents/{'0' * 64}", f"/v1/documents/{'0' * 64}/chunks/{'0' * 64}", "/v1/documents?uri=s0:/no.md",
        "/v1/nothing", "/docs",
    ):  # fmt: skip
        error(client.get(path), 404)
    for path in ("/v1/documents/x", "/v1/documents/..%2F..%2Fetc%2Fpasswd", "/v1/documents", "/v1/documents?uri="):
        assert client.get(path).status_code in (404, 422), path
    error(client.get("/v1/search"), 405)
    none = {"document_id": "0" * 64, "chunk_id": "0" * 64, "relevant": True}
    error(client.post("/v1/feedback", json=none), 404)
    assert error(client.post("/v1/feedback", json={**none, "chunk_id": "x"}), 422)["field"] == "chunk_id"
    assert error(client.get("/v1/documents?uri=x&limit=100000"), 422)["field"] == "limit"


# ---------------------------------------------------------------- keys
def test_keys_that_open_nothing(root: Path, client: TestClient) -> None:
    good = client.headers.pop("Authorization")
    made = good.removeprefix("Bearer ")
    other = f"ragops_{made.split('_')[1]}_{'A' * 43}"
    wrong = [
        None, "", "Bearer", "Bearer ", "Bearer x", f"Bearer {made}x", f"Bearer {made[:-1]}", f"Bearer {other}",
        f"Basic {made}", made, f"Bearer {made} {made}", "Bearer " + "A" * 30_000, f"Bearer {made.upper()}",
        f"Bearer ragops_{'0' * 12}_{'A' * 43}",
    ]  # fmt: skip
    for value in wrong:
        answer = client.post("/v1/search", json={"text": "x"}, headers={"Authorization": value} if value else {})
        error(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.post("/v1/search", json={"text": "x"}, headers={"Authorization": f"bearer {made}"}).status_code == 200


def test_a_revoked_key_is_refused_at_once(root: Path, client: TestClient) -> None:
    keys = Keys(root / ".ragops")
    for n in range(20):
        headers = key(root, f"short{n}")
        assert client.post("/v1/search", json={"text": "x"}, headers=headers).status_code == 200
        keys.revoke(f"short{n}")
        error(client.post("/v1/search", json={"text": "x"}, headers=headers), 401)


def test_an_expired_key_is_refused(root: Path, client: TestClient) -> None:
    headers = key(root, "soon", expires="1h")
    assert client.get("/v1/releases", headers=headers).status_code == 200
    file = root / ".ragops/keys.json"
    value = json.loads(file.read_bytes())
    value["keys"][-1]["expires"] = "2020-01-01T00:00:00+00:00"
    file.write_text(json.dumps(value))
    error(client.get("/v1/releases", headers=headers), 401)


def test_scopes(root: Path, client: TestClient) -> None:
    hit = client.post("/v1/search", json={"text": "penguins", "k": 1}).json()["hits"][0]
    ids = {"document_id": hit["document_id"], "chunk_id": hit["chunk_id"]}
    calls = {
        "search": [("POST", "/v1/search", {"text": "x"}), ("POST", "/v1/search/batch", {"queries": [{"text": "x"}]})],
        "read": [
            ("GET", f"/v1/documents/{hit['document_id']}", None), ("GET", f"/v1/documents?uri={hit['uri']}", None),
            ("GET", f"/v1/documents/{hit['document_id']}/chunks/{hit['chunk_id']}", None),
            ("GET", "/v1/releases", None), ("GET", "/v1/releases/live", None),
        ],
        "feedback": [("POST", "/v1/feedback", {**ids, "relevant": False})],
    }  # fmt: skip
    for scope in calls:
        headers = key(root, f"only-{scope}", scopes=[scope])
        for needed, each in calls.items():
            for method, path, body in each:
                answer = client.request(method, path, json=body, headers=headers)
                if needed == scope:
                    assert answer.status_code in (200, 201), (scope, path, answer.text)
                else:
                    assert f"'{needed}'" in error(answer, 403)["message"]


def test_keys_that_cannot_be_read_let_nobody_in(root: Path, client: TestClient) -> None:
    file = root / ".ragops/keys.json"
    good = file.read_bytes()
    for bad in (b"", b"{", b"[]", good.replace(b'"schema": 1', b'"schema": 2'), good.replace(b'"digest"', b'"digset"')):
        file.write_bytes(bad)
        error(client.get("/v1/releases"), 503)
        error(client.get("/readyz"), 503)
    file.write_bytes(good)
    assert client.get("/v1/releases").status_code == 200
    file.unlink()
    error(client.get("/v1/releases"), 401)


def test_without_keys_only_its_own_names_are_answered(root: Path) -> None:
    with TestClient(application.make(root, auth=False), base_url="http://127.0.0.1:8080") as client:
        assert client.post("/v1/search", json={"text": "x"}).status_code == 200
        for host in ("localhost:8080", "localhost", "[::1]:8080", "127.0.0.1"):
            assert client.get("/v1/releases", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", "", "localhost.evil.example"):
            error(client.get("/v1/releases", headers={"Host": host}), 403)


# ---------------------------------------------------------------- rates
def test_a_rate_is_weighted_by_work(root: Path, client: TestClient) -> None:
    headers = key(root, "slow", rate="10/day")
    assert client.post("/v1/search", json={"text": "x"}, headers=headers).status_code == 200  # 1
    assert client.post("/v1/search", json={"text": "x", "exact": True}, headers=headers).status_code == 200  # 3
    four = {"queries": [{"text": "x"}] * 4}
    assert client.post("/v1/search/batch", json=four, headers=headers).status_code == 200  # 7
    answer = client.post("/v1/search/batch", json=four, headers=headers)
    assert "10/day" in error(answer, 429)["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 2 * 86_400
    assert "counts as 11" in error(client.post("/v1/search/batch", json={"queries": [{"text": "x"}] * 11}, headers=headers), 422)["message"]  # fmt: skip  # noqa: E501
    assert client.post("/v1/search", json={"text": "x"}).status_code == 200, "others have their own"


def test_after_retry_after_there_is_room(root: Path, client: TestClient) -> None:
    headers = key(root, "bursts", rate="3/second")
    waited = 0
    for _ in range(9):
        answer = client.get("/v1/releases", headers=headers)
        while answer.status_code == 429:
            waited += 1
            assert answer.headers["retry-after"] in ("1", "2")
            time.sleep(int(answer.headers["retry-after"]))
            answer = client.get("/v1/releases", headers=headers)
        assert answer.status_code == 200
    assert 1 <= waited <= 6


@pytest.mark.slow
def test_a_reranker_that_is_allowed_counts_more(
    root: Path, everything: dict[str, str], request: pytest.FixtureRequest
) -> None:
    model = str(request.getfixturevalue("cross_encoder"))
    settings(root, rerank=[model])
    slow = key(root, "slow", rate="15/day")
    ask = {"text": "penguins", "k": 3, "rerank": model}
    with TestClient(application.make(root), headers=everything) as client:
        answer = client.post("/v1/search", json=ask, headers=slow)
        assert answer.status_code == 200
        assert all(hit["score"] == hit["scores"]["rerank"] for hit in answer.json()["hits"])
        error(client.post("/v1/search", json=ask, headers=slow), 429)
        assert client.post("/v1/search", json={"text": "penguins"}, headers=slow).status_code == 200
        other = {**ask, "rerank": str(Path(model).parent)}
        assert error(client.post("/v1/search", json=other), 422)["field"] == "rerank"
        ask_schema = client.get("/openapi.json").json()["components"]["schemas"]["Ask"]
        assert ask_schema["properties"]["rerank"]["enum"] == [None, model]


def test_wrong_requests_are_counted(root: Path, client: TestClient) -> None:
    headers = key(root, "wrong", rate="3/day")
    for _ in range(3):
        error(client.post("/v1/search", json={"text": ""}, headers=headers), 422)
    error(client.post("/v1/search", json={"text": "x"}, headers=headers), 429)


# ---------------------------------------------------------------- bounds of time and number
def test_what_takes_too_long_is_ended_and_the_service_goes_on(
    root: Path, everything: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(root, timeout=0.3)
    app = application.make(root)
    service: Service = app.state.service
    with TestClient(app, headers=everything) as client:
        store = service.workspace.store
        reader_of = type(store.open(1))
        rank = reader_of.rank

        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(1)
            return rank(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(reader_of, "rank", slow)
            answer = client.post("/v1/search", json={"text": "x"})
            assert "0.3 seconds" in error(answer, 503)["message"]
            assert int(answer.headers["retry-after"]) >= 1
        assert client.post("/v1/search", json={"text": "x"}).status_code in (200, 503)  # threads may be busy still
        time.sleep(1)
        assert client.post("/v1/search", json={"text": "x"}).status_code == 200
        assert audit(root)[0]["status"] == 503


def test_settings_of_the_service_are_checked() -> None:
    from ragops.config import parse
    from ragops.errors import ConfigError

    assert parse("serve: {limits: 'redis://localhost:6379/0', rate: 5/hour}").serve.rate == "5/hour"
    for name, value in [
        ("limits", "redis://me:secret@host/0"), ("limits", "memcached://x"), ("limits", "env:"), ("rate", "60"),
        ("rate", "0/minute"), ("rate", "60/fortnight"), ("max_k", 0), ("max_k", 10_001), ("timeout", 0),
        ("batch_ms", -1), ("batch_ms", 1000), ("concurrency", 0), ("max_batch", 0), ("max_body_kb", 0),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=f"serve.{name}"):
            parse(f"serve: {{{name}: {json.dumps(value)}}}")
    assert ServeSettings().limits == "memory"


# ---------------------------------------------------------------- what is told
def test_the_audit_log_tells_who_asked_and_not_what(root: Path, client: TestClient) -> None:
    secret = "unmistakable-words-of-a-query"
    client.post("/v1/search", json={"text": secret, "k": 2})
    client.post("/v1/search/batch", json={"queries": [{"text": secret, "filter": {"uri": secret}}] * 2})
    client.get("/v1/documents", params={"uri": f"s0:/{secret}"})
    client.post("/v1/search", json={"text": secret, "nope": secret})
    client.get(f"/{secret}")
    client.get("/v1/releases", headers={"Authorization": f"Bearer {secret}"})
    lines = audit(root)
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/search", 200), ("/v1/search/batch", 200), ("/v1/documents", 404), ("/v1/search", 422), ("(none)", 404),
        ("/v1/releases", 401),
    ]  # fmt: skip
    assert lines[0]["hits"] == 2
    assert lines[0]["release"] == 1
    assert lines[1]["queries"] == 2
    (made,) = Keys(root / ".ragops").all()
    assert lines[0]["key"] == made.id
    assert lines[0]["tenant"] is None
    assert lines[-1]["key"] is None
    token = client.headers["Authorization"].rpartition("_")[2]
    for file in (root / ".ragops").rglob("*"):
        if file.is_file() and "store" not in file.parts:
            data = file.read_bytes()
            assert secret.encode() not in data, file
            assert token.encode() not in data, file
    assert (root / ".ragops/log/audit.jsonl").stat().st_mode & 0o077 == 0


def test_the_audit_log_may_be_moved_away(root: Path, client: TestClient) -> None:
    client.get("/v1/releases")
    (root / ".ragops/log/audit.jsonl").rename(root / "old.jsonl")
    client.get("/v1/releases")
    assert len(audit(root)) == 1


def test_an_unforeseen_error_tells_its_place_and_not_the_query(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ragops.service import service as module

    def broken(*_: object) -> None:
        raise RuntimeError("private words")

    monkeypatch.setattr(module, "search_many", broken)
    found = error(client.post("/v1/search", json={"text": "private words"}), 500)
    assert "private" not in json.dumps(found)
    assert "RuntimeError" in caplog.text
    assert "test_service.py" in caplog.text
    assert "private" not in caplog.text
    assert client.get("/healthz").status_code == 200


def test_a_request_has_an_id(client: TestClient) -> None:
    assert len(client.get("/v1/releases").headers["x-request-id"]) == 16
    assert client.get("/v1/releases", headers={"X-Request-Id": "my-id-42"}).headers["x-request-id"] == "my-id-42"
    odd = client.get("/v1/releases", headers={"X-Request-Id": "a b\tc{}" * 20}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", odd)


def test_the_description_has_the_bounds_of_this_service(root: Path) -> None:
    settings(root, max_k=7, max_batch=3, max_text=50)
    with TestClient(application.make(root)) as client:
        found = client.get("/openapi.json").json()
    assert "release" not in found["components"]["schemas"]["Question"]["properties"]
    ask = found["components"]["schemas"]["Ask"]
    assert ask["properties"]["k"]["anyOf"][0]["maximum"] == 7
    assert ask["properties"]["text"]["maxLength"] == 50
    assert ask["additionalProperties"] is False
    assert found["components"]["schemas"]["Batch"]["properties"]["queries"]["maxItems"] == 3
    assert set(found["paths"]) == {
        "/v1/search", "/v1/search/batch", "/v1/documents", "/v1/documents/{document_id}",
        "/v1/documents/{document_id}/chunks/{chunk_id}",
        "/v1/feedback", "/v1/releases", "/v1/releases/live", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert bool(operation.get("security")) is path.startswith("/v1/"), path
    assert ask["examples"]


def test_the_audit_log_makes_no_workspace_anew(tmp_path: Path) -> None:
    log = Log(tmp_path / "kb/.ragops/log/audit.jsonl")
    log.write({"n": 1})
    (tmp_path / "kb").rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be written"):
            log.write({"n": 2})
    assert not (tmp_path / "kb").exists()
    (tmp_path / "moved").rename(tmp_path / "kb")
    log.write({"n": 3})
    log.close()
    assert log.path.read_text().splitlines() == ['{"n":1}', '{"n":3}']
