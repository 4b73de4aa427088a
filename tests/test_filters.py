from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragops.errors import UsageError
from ragops.stores.filters import MAX_CONDITIONS, Either, Every, Numbers, Texts, for_edge, for_server, parse
from ragops.stores.permissions import payload, rewritten
from ragops.types import Permission


# ---------------------------------------------------------------- the form
def test_no_filter_is_no_condition() -> None:
    assert parse(None) is None
    assert parse({}) is None
    assert for_edge(parse({})) is None
    assert for_server(parse(None)) is None


def test_the_tree() -> None:
    assert parse({"tenant": "acme", "page": {"gte": 2}}) == Every((Texts("tenant", ("acme",)), Numbers("page", gte=2)))
    assert parse({"meta.my key": "x"}) == Every((Texts('meta."my key"', ("x",)),))
    assert parse({"meta.colour": {"in": ["red", "blue"]}}) == Every((Texts("meta.colour", ("red", "blue")),))


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ({"colour": "red"}, r"no field 'colour'.*\n.*meta\.colour"),
        ({"tenants": "acme"}, "Did you mean tenant?"),
        ({"Tenant": "acme"}, "Did you mean tenant?"),
        ({"text": "x"}, "no field 'text'"),
        ({"meta": "x"}, "no field 'meta'"),
        ({"meta.": "x"}, "no field 'meta.'"),
        ({"": "x"}, "no field ''"),
        ({3: "x"}, "a field is text"),
        ({'meta.a"b': "x"}, "quote"),
        ({"tenant": None}, "exists"),
        ({"tenant": 3}, "tenant is text, not a number"),
        ({"tenant": True}, "tenant is text"),
        ({"tenant": ["a", "b"]}, '"in"'),
        ({"tenant": {}}, "no operator"),
        ({"tenant": {"is": "a"}}, "'is'.*\n.*in, gte, lt, exists"),
        ({"tenant": {"lte": 1}}, "'lte'"),
        ({"tenant": {"gte": "a"}}, "no order"),
        ({"tenant": {"in": "acme"}}, '"in" takes a list'),
        ({"tenant": {"in": ["a", 1]}}, "tenant is text"),
        ({"tenant": {"in": [None]}}, "null"),
        ({"tenant": {"in": [["a"]]}}, "tenant is text"),
        ({"tenant": {"exists": 1}}, "true or false"),
        ({"tenant": "\ud800"}, "Unicode"),
        ({"page": "3"}, "page is a number"),
        ({"page": True}, "page is a number"),
        ({"page": {"gte": "2026-01-01"}}, "gte take numbers"),
        ({"page": {"gte": True}}, "gte take numbers"),
        ({"page": {"gte": None}}, "null"),
        ({"page": float("nan")}, "no number to compare"),
        ({"page": {"lt": float("inf")}}, "no number to compare"),
        ({"page": 2**63}, "64 bits"),
        ({"meta.n": {"gte": 1, "lt": "2026-01-01"}}, "numbers, or dates"),
        ({"meta.n": {"gte": "yesterday"}}, "neither a number nor a date"),
        ({"meta.n": {"in": [object()]}}, "object"),
        ({"any": []}, "at least one"),
        ({"any": {"page": 1}}, "takes a list"),
        ({"any": [{}]}, "is empty"),
        ({"any": ["page"]}, "a filter is an object, not text"),
        ({"any": [{"colour": 1}]}, "no field 'colour'"),
        ([("tenant", "acme")], "a filter is an object"),
        ("tenant=acme", "a filter is an object, not text"),
        ([], "a filter is an object, not a list"),
        (0, "a filter is an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(filter: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(filter)


def test_depth_is_bounded() -> None:
    filter: dict[str, Any] = {"page": 1}
    for _ in range(2000):
        filter = {"any": [filter]}
    with pytest.raises(UsageError, match="deep"):
        parse(filter)


# ---------------------------------------------------------------- what it means, on both engines
VALUES: list[Any] = [
    "red", "blue", "", "true", "1", "2026-01-31", "2026-01-31T12:00:00Z", "ünï \"quoted\" \\", "a.b[0]",
    0, 1, -3, 7, 2**53 + 1, 2**53 + 2, 0.5, 1.0, -3.25, True, False, None,
    [], ["red", "x"], [1, 2.5], [True], [None, "red"],
]  # fmt: skip
NAMES = ["meta.v", "meta.my key", "meta.a.b", "meta.ß[0]"]


def payloads() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"meta": {name.removeprefix("meta."): value}} for name in NAMES for value in VALUES]
    made += [
        {"tenant": tenant, "groups": groups, "page": page}
        for tenant in ("acme", "globex")
        for groups in ([], ["g1"], ["g1", "g2"])
        for page in (None, 1, 2, 7)
    ]
    return [*made, {}, {"meta": {}}]


def meaning(filter: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """The documented meaning, spelled out in Python."""

    def equal(item: Any, value: Any) -> bool:
        if isinstance(item, bool) or isinstance(value, bool):
            return item is value
        if isinstance(item, str) or isinstance(value, str):
            return isinstance(item, str) and isinstance(value, str) and item == value
        return isinstance(item, (int, float)) and item == value

    def moment(value: Any) -> datetime | None:
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def within(item: Any, condition: Mapping[str, Any]) -> bool:
        bounds: dict[str, Any] = {key: condition[key] for key in ("gte", "lt") if key in condition}
        left: Any = item
        if isinstance(next(iter(bounds.values())), str):
            left, bounds = moment(item), {key: moment(value) for key, value in bounds.items()}
            if left is None:
                return False
        elif isinstance(item, bool) or not isinstance(item, (int, float)):
            return False
        return ("gte" not in bounds or left >= bounds["gte"]) and ("lt" not in bounds or left < bounds["lt"])

    def holds(name: str, condition: Any) -> bool:
        prefix, _, own = name.partition(".")
        value = payload.get("meta", {}).get(own) if prefix == "meta" else payload.get(name)
        items = value if isinstance(value, list) else [value]
        if not isinstance(condition, dict):
            return any(equal(item, condition) for item in items)
        checks: list[bool] = []
        if "in" in condition:
            checks.append(any(equal(item, wanted) for item in items for wanted in condition["in"]))
        if "exists" in condition:
            checks.append((value is not None and value != []) is condition["exists"])
        if "gte" in condition or "lt" in condition:
            checks.append(any(within(item, condition) for item in items))
        return all(checks)

    return all(
        any(meaning(part, payload) for part in condition) if name == "any" else holds(name, condition)
        for name, condition in filter.items()
    )


Engine: TypeAlias = Callable[[Every | None], set[int]]


def both_engines(path: str, payloads: list[dict[str, Any]], indexed: tuple[str, ...]) -> Iterator[dict[str, Engine]]:
    import qdrant_edge as edge
    from qdrant_client import QdrantClient, models

    ids = [str(uuid.UUID(int=number + 1)) for number in range(len(payloads))]
    config = edge.EdgeConfig(
        vectors={"v": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}, wal_enabled=False
    )
    shard = edge.EdgeShard.create(path, config)
    for name in indexed:
        shard.update(edge.UpdateOperation.create_field_index(name, edge.KeywordIndexParams()))
    points = [edge.Point(id, {"v": [1.0]}, payload) for id, payload in zip(ids, payloads, strict=True)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={"v": models.VectorParams(size=1, distance=models.Distance.DOT)})
    structs = [
        models.PointStruct(id=id, vector={"v": [1.0]}, payload=payload)
        for id, payload in zip(ids, payloads, strict=True)
    ]
    client.upsert("c", structs)

    def on_edge(tree: Every | None) -> set[int]:
        found, _ = shard.scroll(edge.ScrollRequest(limit=1000, filter=for_edge(tree)))
        return {uuid.UUID(str(record.id)).int - 1 for record in found}

    def on_local(tree: Every | None) -> set[int]:
        found, _ = client.scroll("c", limit=1000, scroll_filter=for_server(tree))
        return {uuid.UUID(str(record.id)).int - 1 for record in found}

    yield {"edge": on_edge, "local": on_local}
    shard.close()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    yield from both_engines(str(tmp_path_factory.mktemp("shard")), payloads(), ("tenant", "groups"))


texts = st.sampled_from([value for value in VALUES if isinstance(value, str)] + ["nothing"])
numbers = st.sampled_from([0, 1, 2, -3, 7, 0.5, 1.0, 2.5, -3.25, 100])
own_value = st.one_of(texts, numbers, st.booleans(), st.sampled_from([2**53 + 1, 2**53 + 2]))
dates = st.sampled_from(["2026-01-31", "2026-01-31T12:00:00Z", "2026-02-01", "2026-01-30T23:00:00+01:00"])


def ranges(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={"gte": values, "lt": values, "exists": st.booleans()}).filter(bool)


own = st.one_of(
    own_value, ranges(numbers), ranges(dates), st.fixed_dictionaries({"in": st.lists(own_value, max_size=3)})
)
page = st.one_of(st.sampled_from([1, 2, 2.0, 9]), ranges(numbers), st.just({"in": [1, 7]}))
tenants = st.sampled_from(["acme", "globex", "", "x"])
some_groups = st.sampled_from(["g1", "g2", "", "acme", "x"])


def text(values: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    conditions = {"in": st.lists(values, max_size=3), "exists": st.booleans()}
    return st.one_of(values, st.fixed_dictionaries({}, optional=conditions).filter(bool))


flat = st.fixed_dictionaries(
    {}, optional={"tenant": text(tenants), "groups": text(some_groups), "page": page} | dict.fromkeys(NAMES, own)
).filter(bool)


@pytest.mark.parametrize(
    "many",
    [
        {"any": [{"page": n} for n in range(MAX_CONDITIONS + 1)]},
        {"meta.year": {"in": list(range(MAX_CONDITIONS + 1))}},
        {"any": [{"any": [{"meta.a": "x", "meta.b": "y"}] * 11}] * 3},
        {f"meta.{n}": "x" for n in range(MAX_CONDITIONS + 1)},
    ],
)
def test_too_many_conditions(many: dict[str, Any]) -> None:
    """Each reads every payload, where its field has no index: a thousand took ten seconds of 1,600 passages."""
    with pytest.raises(UsageError, match=f"it takes {MAX_CONDITIONS}"):
        parse(many)


def test_a_list_of_texts_is_one_condition() -> None:
    assert parse({"meta.sku": {"in": [f"{n}" for n in range(10_000)]}}) is not None
    assert parse({"page": {"in": list(range(MAX_CONDITIONS))}}) is not None


def nested_of(flat: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def around(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        return st.tuples(flat, st.lists(inner, min_size=1, max_size=3)).map(lambda both: both[0] | {"any": both[1]})

    either = st.lists(flat, min_size=1, max_size=3).map(lambda parts: {"any": parts})
    return st.recursive(st.one_of(flat, either), around, max_leaves=4)


nested = nested_of(flat)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filter=st.one_of(flat, nested, st.lists(nested, min_size=1, max_size=3).map(lambda parts: {"any": parts})))
def test_both_engines_do_what_the_form_says(engines: dict[str, Engine], filter: dict[str, Any]) -> None:
    expected = {number for number, payload in enumerate(payloads()) if meaning(filter, payload)}
    try:
        tree = parse(filter)
    except UsageError as error:
        assert f"it takes {MAX_CONDITIONS}" in error.message  # noqa: PT017
        return
    for name, found in engines.items():
        assert found(tree) == expected, name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [value for value in VALUES if value is not None and not isinstance(value, list)])
def test_each_value_finds_itself(engines: dict[str, Engine], name: str, value: Any) -> None:
    filter = {name: value}
    expected = {number for number, payload in enumerate(payloads()) if meaning(filter, payload)}
    assert expected
    for found in engines.values():
        assert found(parse(filter)) == expected


# ---------------------------------------------------------------- under today's permissions
DOCUMENTS = ["d1", "d2", "d3", "d4", "d5"]
SEALED: list[dict[str, Any]] = [
    {"document_id": document, "tenant": tenant, "groups": groups, "page": page}
    for page, (document, tenant, groups) in enumerate(
        (document, tenant, groups)
        for document in DOCUMENTS
        for tenant in ("acme", "globex", "")
        for groups in ([], ["g1"], ["g1", "g2"], [""])
    )
] + [{"document_id": document, "meta": {"v": "red"}} for document in DOCUMENTS]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    yield from both_engines(str(tmp_path_factory.mktemp("sealed")), SEALED, ("tenant", "groups", "document_id"))


permission = st.tuples(tenants, st.lists(some_groups, max_size=2).map(tuple))
permission_filters = nested_of(
    st.fixed_dictionaries(
        {},
        optional={
            "tenant": text(tenants),
            "groups": text(some_groups),
            "page": ranges(st.sampled_from([3, 30])),
            "document_id": text(st.sampled_from(DOCUMENTS)),
            "meta.v": st.sampled_from(["red", "blue"]),
        },
    ).filter(bool)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filter=permission_filters, today=st.dictionaries(st.sampled_from([*DOCUMENTS, "elsewhere"]), permission))
def test_permissions_over_a_sealed_release_are_as_if_written(
    sealed: dict[str, Engine], filter: dict[str, Any], today: dict[str, Permission]
) -> None:
    tree = rewritten(parse(filter), today)
    written = [payload(each, today) for each in SEALED]
    expected = {number for number, each in enumerate(written) if meaning(filter, each)}
    for name, found in sealed.items():
        assert found(tree) == expected, name


@pytest.mark.parametrize("name", ["tenant", "groups"])
@pytest.mark.parametrize(
    "condition",
    ["acme", "", "g1", {"in": []}, {"in": ["acme", "g2"]}, {"in": ["", "x"]}, {"exists": True}, {"exists": False},
     {"in": ["acme", "", "g1"], "exists": True}],
)  # fmt: skip
def test_each_condition_under_each_permission(sealed: dict[str, Engine], name: str, condition: Any) -> None:
    every: list[Permission] = [
        (tenant, groups) for tenant in ("acme", "", "x") for groups in ((), ("g1",), ("g2", "g1"), ("",))
    ]
    for filter in ({name: condition}, {"any": [{name: condition, "page": {"gte": 30}}, {"meta.v": "red"}]}):
        for start in range(0, len(every), len(DOCUMENTS) - 1):
            today = dict(zip(DOCUMENTS, every[start:], strict=False))
            written = [payload(each, today) for each in SEALED]
            expected = {number for number, each in enumerate(written) if meaning(filter, each)}
            for engine, found in sealed.items():
                assert found(rewritten(parse(filter), today)) == expected, engine


def test_a_filter_that_does_not_ask_for_permissions_stays(sealed: dict[str, Engine]) -> None:
    today: dict[str, Permission] = {"d1": ("acme", ())}
    for filter in ({"page": 1}, {"any": [{"meta.v": "red"}, {"document_id": "d1"}]}):
        assert rewritten(parse(filter), today) is not None
        assert rewritten(parse(filter), today) == parse(filter)
    assert rewritten(None, today) is None
    assert rewritten(parse({"tenant": "acme"}), {}) == parse({"tenant": "acme"})


def test_a_rewritten_filter_grows_with_itself_not_with_the_permissions() -> None:
    """Every document has permissions of its own: what is left of the filter is one of few things."""
    today: dict[str, Permission] = {f"d{i}": (f"t{i}", (f"g{i}",)) for i in range(1000)}
    tree = rewritten(parse({"any": [{"tenant": "t3", "page": 1}, {"groups": "g4"}]}), today)
    assert tree is not None
    [either] = tree.parts
    assert isinstance(either, Either)
    assert len(either.parts) == 3  # not in today's, page 1 of d3, all of d4
