"""What every connector must do, whatever it reads. A connector's tests give the contract a `World`:

class TestFiles(ConnectorContract):
    @pytest.fixture
    def world(self, tmp_path):
        return FilesWorld(tmp_path)
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import pytest

from ragops.errors import FetchError, ScanError
from ragops.types import REJECT_CODES, Connector, Entry, Reject, Unchanged

TENANT, GROUPS = "acme", ("red", "blue")


class World(Protocol):
    """A place with sources, each under a key and with a text, and a connector that looks at it.

    The connector is named "docs" and set up with the tenant TENANT and the groups GROUPS.
    """

    def connector(self) -> Connector:
        """A new one: nothing may be remembered from one to the next."""
        ...

    def put(self, key: str, text: str) -> None:
        """Add or change a source."""
        ...

    def remove(self, key: str) -> None: ...

    def uri(self, key: str) -> str: ...

    def spoil(self) -> None:
        """Add a source that can be listed but is to be rejected."""
        ...

    def hide(self) -> None:
        """Make a part that cannot be listed."""
        ...

    def unhide(self) -> None: ...

    def fill(self, count: int, size: int) -> None:
        """Sources with texts of `size` characters, in as many parts as it takes for none to hold more than 100."""
        ...

    def destroy(self) -> None:
        """Remove the place itself."""
        ...

    def settle(self) -> None:
        """Make all that was put look old enough for its change token to be trusted."""
        ...

    @property
    def batch(self) -> int:
        """Bytes that a scan may hold at a time, whatever the place's size."""
        ...


@dataclass
class Listing:
    """A scan, run to its end."""

    entries: list[Entry] = field(default_factory=list)
    unchanged: list[Unchanged] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    complete: bool = False
    containers: dict[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, str]:
        return {entry.uri: entry.token for entry in self.entries}


def listing(connector: Connector, known: Callable[[str], str | None] = lambda container: None) -> Listing:
    scan = connector.scan(known)
    found = Listing()
    for item in scan:
        if isinstance(item, Entry):
            found.entries.append(item)
        elif isinstance(item, Unchanged):
            found.unchanged.append(item)
        else:
            found.rejects.append(item)
    found.complete = scan.complete
    found.containers = dict(scan.containers)
    return found


class ConnectorContract:
    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError("give the contract a world")

    @pytest.fixture
    def three(self, world: World) -> World:
        for key in ("b", "a", "c"):
            world.put(key, f"the text of {key}")
        return world

    def test_lists_every_source_once(self, three: World) -> None:
        found = listing(three.connector())
        assert sorted(entry.uri for entry in found.entries) == sorted(three.uri(key) for key in "abc")
        assert found.complete
        assert not found.rejects

    def test_uris_are_of_the_source_and_one_line(self, three: World) -> None:
        for entry in listing(three.connector()).entries:
            assert entry.uri.startswith("docs:/")
            assert entry.uri.isprintable()

    def test_two_scans_of_the_same_are_equal(self, three: World) -> None:
        connector = three.connector()
        first = listing(connector)
        for again in (listing(connector), listing(three.connector())):
            # Order, uris, tokens, locators; a token settles by itself when time passes.
            assert [replace(e, settled=True) for e in again.entries] == [
                replace(e, settled=True) for e in first.entries
            ]
            assert again.complete

    def test_entries_survive_being_stored(self, three: World) -> None:
        connector = three.connector()
        for entry in listing(connector).entries:
            stored = Entry(**json.loads(json.dumps(asdict(entry))))
            assert stored == entry
            fetched, again = connector.fetch(entry), three.connector().fetch(stored)
            assert replace(again, settled=True) == replace(fetched, settled=True)

    def test_fetch_gives_what_was_listed(self, three: World) -> None:
        connector = three.connector()
        texts = {three.uri(key): f"the text of {key}" for key in "abc"}
        for entry in listing(connector).entries:
            source = connector.fetch(entry)
            assert source.uri == entry.uri
            assert source.token == entry.token
            assert source.data.decode(source.encoding or "utf-8").strip() == texts[entry.uri]
            assert "/" in source.media_type

    def test_fetch_in_any_order_and_again(self, three: World) -> None:
        connector = three.connector()
        entries = listing(connector).entries
        first = {entry.uri: connector.fetch(entry) for entry in entries}
        for entry in [*reversed(entries), *entries, entries[0], entries[-1]]:
            assert replace(connector.fetch(entry), settled=True) == replace(first[entry.uri], settled=True)

    def test_tenant_and_groups_are_carried(self, three: World) -> None:
        connector = three.connector()
        for entry in listing(connector).entries:
            metadata = connector.fetch(entry).metadata
            assert (metadata.tenant, metadata.groups) == (TENANT, GROUPS)

    def test_a_change_changes_one_token(self, three: World) -> None:
        before = listing(three.connector()).tokens
        three.put("b", "another text altogether")
        after = listing(three.connector())
        assert {uri for uri, token in after.tokens.items() if before[uri] != token} == {three.uri("b")}
        assert after.complete
        entry = next(entry for entry in after.entries if entry.uri == three.uri("b"))
        assert b"another text" in three.connector().fetch(entry).data

    def test_a_change_of_the_same_length_changes_the_token(self, three: World) -> None:
        before = listing(three.connector()).tokens
        three.put("b", "the text of B")
        assert listing(three.connector()).tokens[three.uri("b")] != before[three.uri("b")]

    def test_a_token_never_covers_other_bytes(self, three: World) -> None:
        connector = three.connector()
        entry = next(entry for entry in listing(connector).entries if entry.uri == three.uri("b"))
        three.put("b", "changed between scan and fetch, and longer than before")
        try:
            source = connector.fetch(entry)
        except FetchError as error:
            refused = error
        else:
            assert source.token != entry.token
            assert b"changed between" in source.data
            return
        assert refused.transient  # it is there, and is fetched at the next run

    def test_what_is_removed_is_not_listed(self, three: World) -> None:
        connector = three.connector()
        gone = next(entry for entry in listing(connector).entries if entry.uri == three.uri("c"))
        three.remove("c")
        after = listing(connector)
        assert sorted(after.tokens) == sorted([three.uri("a"), three.uri("b")])
        assert after.complete
        with pytest.raises(FetchError):
            connector.fetch(gone)

    def test_what_is_added_is_listed(self, three: World) -> None:
        before = listing(three.connector()).tokens
        three.put("d", "a fourth")
        after = listing(three.connector()).tokens
        assert set(after) - set(before) == {three.uri("d")}
        assert all(after[uri] == before[uri] for uri in before)

    def test_owns_what_it_lists_and_nothing_of_another_source(self, three: World) -> None:
        connector = three.connector()
        for entry in listing(connector).entries:
            assert connector.owns(entry.uri)
            assert not connector.owns(entry.uri.replace("docs:", "docs2:", 1))
            assert not connector.owns(entry.uri.replace("docs:", "doc:", 1))
        assert connector.owns(three.uri("not there any more"))

    def test_one_bad_source_costs_one_reject(self, three: World) -> None:
        three.spoil()
        found = listing(three.connector())
        assert sorted(found.tokens) == sorted(three.uri(key) for key in "abc")
        (reject,) = found.rejects
        assert reject.code in REJECT_CODES
        assert (reject.source, reject.stage) == ("docs", "scan")
        assert reject.uri.startswith("docs:/")
        assert reject.uri.isprintable()
        assert reject.reason
        assert reject.hint

    def test_what_cannot_be_listed_leaves_the_scan_incomplete(self, three: World) -> None:
        three.hide()
        found = listing(three.connector())
        assert not found.complete
        assert found.rejects  # and somebody is told
        assert set(found.tokens) == {three.uri(key) for key in "abc"}
        three.unhide()
        assert listing(three.connector(), found.containers.get).complete

    def test_an_incomplete_part_is_never_unchanged(self, three: World) -> None:
        three.hide()
        first = listing(three.connector())
        again = listing(three.connector(), first.containers.get)
        assert not again.complete
        assert again.rejects == first.rejects

    def test_a_missing_place_is_an_error(self, three: World) -> None:
        connector = three.connector()
        three.destroy()
        with pytest.raises(ScanError) as raised:
            listing(connector)
        assert raised.value.hint
        with pytest.raises(ScanError):
            listing(three.connector())

    def test_a_place_emptied_is_complete_and_empty(self, three: World) -> None:
        for key in "abc":
            three.remove(key)
        found = listing(three.connector())
        assert not found.entries
        assert found.complete

    def test_containers(self, three: World) -> None:
        """Of connectors whose files hold many sources: unchanged ones are not read again, changed ones are."""
        three.settle()
        first = listing(three.connector())
        named = {entry.container for entry in first.entries} - {""}
        assert named <= set(first.containers)
        assert all(first.containers.values())
        again = listing(three.connector(), first.containers.get)
        still = {item.container for item in again.unchanged}
        assert still == {container for container, token in first.containers.items() if token}
        assert [e for e in again.entries if e.container not in still] == again.entries
        assert {e.uri for e in first.entries if e.container not in still} == set(again.tokens)
        assert again.complete
        three.put("a", "a changed text")
        changed = listing(three.connector(), first.containers.get)
        assert three.uri("a") in changed.tokens

    def test_memory_does_not_grow_with_the_place(self, world: World) -> None:
        def peak() -> int:
            tracemalloc.start()
            try:
                scan = world.connector().scan(lambda container: None)
                count = sum(1 for _ in scan)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                assert count > 0

        world.fill(300, 2_000)
        peak()  # what is imported and cached once
        small = peak()
        world.fill(3_000, 2_000)
        assert peak() < small * 1.5 + world.batch
