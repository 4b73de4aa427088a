from __future__ import annotations

import hashlib
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops import ids

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)
HASH = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(PLAIN)
def test_canonical_json_is_what_json_says(value: object) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert ids.composite("x", value) == hashlib.sha256(f"ragops:x:v1\n{text}".encode()).hexdigest()


@given(st.dictionaries(st.text("abcdef", max_size=3), st.integers(0, 9)))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert ids.composite("x", value) == ids.composite("x", dict(reversed(value.items())))


def test_the_recipe_of_a_composite() -> None:
    by_hand = hashlib.sha256(b'ragops:chunk:v1\n["d","e",0]').hexdigest()
    assert ids.chunk_id("d", "e", 0) == by_hand
    assert ids.composite("chunk", ["d", "e", 0]) != ids.composite("vector", ["d", "e", 0])


@pytest.mark.parametrize("value", [1.5, [0.0], {"a": [{"b": 2.0}]}])
def test_floats_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no floats"):
        ids.composite("x", value)


@given(HASH, HASH)
def test_point_ids_are_uuid5(chunk: str, payload: str) -> None:
    assert ids.point_id(chunk, payload) == str(uuid.uuid5(ids.POINT_NAMESPACE, chunk + payload))
