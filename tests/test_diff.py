"""What changed between two releases, and why hits moved. Deterministic model, real engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ragops.cli import diff as cli
from ragops.errors import UsageError
from ragops.retrieval.diff import Difference, DocumentChange, diff
from ragops.retrieval.explain import HitChange, explain
from ragops.types import Leg, Mode, Place, PointRow, Reader, Release, Space
from ragops.workspace import Workspace
from tests.conftest import write_corpus

LONG = "\n\n".join(
    f"Paragraph {n} is about the {thing} of the house, how it is cleaned and who has the key to it."
    for n, thing in enumerate(["kitchen", "cellar", "attic", "garden", "garage", "library", "stairs", "roof"])
)


def put(root: Path, name: str, text: str) -> None:
    write_corpus(root, {name: text})
    os.utime(root / name, ns=(1_700_000_000_000_000_000 + sum(text.encode()),) * 2)


def params(workspace: Workspace, old: str, new: str) -> Workspace:
    """The workspace again, with another setting."""
    file = workspace.root / "params.yaml"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    workspace.close()
    return Workspace.open(workspace.root)


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    """One that is asked by vectors: their scores compare from release to release."""
    return params(workspace, "mode: hybrid", "mode: dense")


def uris(found: Difference) -> dict[str, Any]:
    return {name: value for name, value in found.as_dict()["documents"].items() if value}


def consistent(found: Difference) -> None:
    """The counts add up to what the releases hold."""
    chunks = found.chunks()
    assert found.a.points == sum(chunks[name] for name in ("removed", "changed", "moved", "unchanged"))
    assert found.b.points == sum(chunks[name] for name in ("added", "changed", "moved", "unchanged"))


def mirrored(found: Difference) -> Any:
    """The documents of `diff(b, a)`."""
    turned = {"added": "removed", "removed": "added"}
    return sorted(
        (
            d.was or d.uri,
            turned.get(d.change, d.change),
            d.uri if d.was else "",
            d.removed,
            d.added,
            d.changed,
            d.unchanged,
        )
        for d in found.documents
    )


def plain(found: Difference) -> Any:
    return sorted((d.uri, d.change, d.was, d.added, d.removed, d.changed, d.unchanged) for d in found.documents)


def only(found: Difference, uri: str) -> DocumentChange:
    (document,) = [d for d in found.documents if d.uri == uri]
    return document


def hit(found: Difference, uri: str) -> HitChange:
    assert found.hits is not None
    (change,) = [change for change in found.hits if change.hit.uri == uri]
    return change


# ------------------------------------------------------------------ documents and chunks
def test_a_release_does_not_differ_from_itself(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    found = workspace.diff(1, 1, "penguins")
    assert found.documents == ()
    assert not found.space_changed
    assert found.chunker_changed is False
    consistent(found)
    assert found.hits
    assert {(change.move, change.reasons) for change in found.hits} == {("same", ())}


def test_edits_deletes_and_moves(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "long.txt", LONG)
    workspace = params(workspace, "size: null", "size: 24")
    workspace.ingest(corpus)
    put(corpus, "long.txt", LONG.replace("Paragraph 3 is about", "Paragraph 3 tells all about"))
    (corpus / "data.csv").unlink()
    (corpus / "notes.txt").rename(corpus / "birds.txt")
    put(corpus, "new.md", "# New\n\nNothing like it was here.\n")
    workspace.ingest()
    found = workspace.diff(1, 2)
    assert uris(found) == {
        "added": ["corpus:/new.md"],
        "removed": ["corpus:/data.csv"],
        "changed": ["corpus:/long.txt"],
        "moved": [["corpus:/notes.txt", "corpus:/birds.txt"]],
    }
    edited = only(found, "corpus:/long.txt")
    assert (len(edited.added), len(edited.removed), len(edited.changed), edited.unchanged) == (1, 1, 4, 3)
    texts = {payload["chunk_id"]: payload["text"] for _, payload, _ in workspace.reader(2).points()}
    assert "tells all about the garden" in texts[edited.added[0]]
    assert all(int(texts[chunk].split()[1]) > 3 for chunk in edited.changed)  # below the edit: only their place moved
    assert found.chunks()["moved"] == 1
    consistent(found)
    assert mirrored(found) == plain(workspace.diff(2, 1))
    assert workspace.diff(1).as_dict() == workspace.diff().as_dict() == found.as_dict()
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_copies_that_move_are_paired_one_to_one(workspace: Workspace, corpus: Path) -> None:
    for name in ("a", "b", "c"):
        put(corpus, f"{name}/license.txt", "Do what you like with it.")
    workspace.ingest(corpus)
    (corpus / "b/license.txt").rename(corpus / "other.txt")
    (corpus / "c/license.txt").unlink()
    workspace.ingest()
    found = workspace.diff(1, 2)
    assert uris(found) == {
        "moved": [["corpus:/b/license.txt", "corpus:/other.txt"]],
        "removed": ["corpus:/c/license.txt"],
    }
    assert mirrored(found) == plain(workspace.diff(2, 1))


def test_metadata_changes_chunks_without_replacing_them(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "guide/rollback.md", "---\ntitle: Rolling back\nlang: en\n---\n# Rollback\n\nGo back.\n")
    workspace.ingest(corpus)
    put(corpus, "guide/rollback.md", "---\ntitle: Rolling back\nlang: de\n---\n# Rollback\n\nGo back.\n")
    workspace.ingest()
    found = workspace.diff(1, 2)
    document = only(found, "corpus:/guide/rollback.md")
    assert (document.added, document.removed, len(document.changed)) == ((), (), 1)
    assert len(found.documents) == 1


def test_another_chunk_size(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "long.txt", LONG)
    workspace.ingest(corpus)
    workspace = params(workspace, "size: null", "size: 40")
    workspace.ingest()
    found = workspace.diff(1, 2)
    assert "corpus:/long.txt" in uris(found)["changed"]
    assert set(uris(found)) == {"changed"}
    assert not found.space_changed
    assert found.chunker_changed
    consistent(found)
    assert mirrored(found) == plain(workspace.diff(2, 1))


def test_another_model(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    workspace = params(workspace, "hash:64", "hash:32")
    workspace.ingest()
    found = workspace.diff(1, 2)
    assert found.space_changed
    assert found.documents == ()  # the same chunks, by another model
    consistent(found)


def test_unknown_releases_are_named(workspace: Workspace, corpus: Path) -> None:
    with pytest.raises(UsageError, match="no release yet"):
        workspace.diff()
    workspace.ingest(corpus)
    with pytest.raises(UsageError, match="no release before 1"):
        workspace.diff()
    for a, b in ((7, 1), (1, 7), (None, 7)):
        with pytest.raises(UsageError, match="no release 7; kept are 1"):
            workspace.diff(a, b)


# ------------------------------------------------------------------ properties, over rows alone
class Rows:
    """A store that has rows and manifests and no engine."""

    def __init__(self, **releases: list[PointRow]) -> None:
        self.rows = {int(name[1:]): sorted(rows) for name, rows in releases.items()}

    def releases(self) -> list[Release]:
        space = Space("s", "m", 2, 8, "w", True)
        return [Release(n, "c", "f", space, "x", len(rows), "", 8) for n, rows in self.rows.items()]

    def point_rows(self, number: int) -> Iterator[PointRow]:
        return iter(self.rows[number])


#: uri -> chunks as (text, payload)
RELEASES = st.dictionaries(
    st.sampled_from("abcdef"), st.dictionaries(st.sampled_from("tuvw"), st.integers(0, 2), min_size=1), max_size=6
)


def rows_of(release: dict[str, dict[str, int]], keys: bool = True) -> list[PointRow]:
    return [
        PointRow(f"{uri}{text}{payload}", f"{uri}{text}", f"id of {uri}", text if keys else "", uri)
        for uri, chunks in release.items()
        for text, payload in chunks.items()
    ]


@given(RELEASES, RELEASES, st.booleans())
def test_the_difference_leads_from_one_to_the_other(
    old: dict[str, dict[str, int]], new: dict[str, dict[str, int]], keys: bool
) -> None:
    store: Any = Rows(r1=rows_of(old, keys), r2=rows_of(new, keys))
    found = diff(store, 1, 2)
    consistent(found)
    assert mirrored(found) == plain(diff(store, 2, 1))
    assert diff(store, 1, 1).documents == ()
    ids = {uri: {f"{uri}{text}" for text in chunks} for uri, chunks in old.items()}
    for document in found.documents:
        before = ids.pop(document.was or document.uri, set())
        assert before >= {*document.removed, *document.changed}
        if document.change == "moved":
            assert keys
            assert sorted(old[document.was]) == sorted(new[document.uri])
            assert not new.get(document.was)
            assert not old.get(document.uri)
        else:
            assert (not before) == (document.change == "added")
        after = before - {*document.removed} | {*document.added}
        assert (not after) == (document.change == "removed")
        if after:
            ids[document.uri] = after
    assert ids == {uri: {f"{uri}{text}" for text in chunks} for uri, chunks in new.items()}


def test_without_vector_keys_nothing_is_taken_for_a_move() -> None:
    store: Any = Rows(r1=rows_of({"a": {"t": 0}}, False), r2=rows_of({"b": {"t": 0}}, False))
    assert [d.change for d in diff(store, 1, 2).documents] == ["removed", "added"]


# ------------------------------------------------------------------ hits
PETS = {
    "cats.txt": "Cats sleep most of the day and hunt at night.",
    "dogs.txt": "Dogs guard the house and hunt with people.",
    "fish.txt": "Fish swim in the bowl.",
    "owls.txt": "Owls hunt at night and sleep by day in old trees.",
}
QUERY = "who will hunt at night and sleep by day"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "pets", PETS)


def test_others_come_and_leave(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "bats.txt", "Who will hunt at night and sleep by day? Bats.")
    workspace.ingest()
    found = workspace.diff(1, 2, QUERY, k=2)
    assert found.hits is not None
    assert [(c.move, c.hit.uri, c.reasons, c.rank_a, c.rank_b, c.came, c.left) for c in found.hits] == [
        ("in", "pets:/bats.txt", ("added",), None, 1, 0, 0),
        ("down", "pets:/owls.txt", ("others",), 1, 2, 1, 0),
        ("out", "pets:/cats.txt", ("others",), 2, 3, 1, 0),
    ]
    back = workspace.diff(2, 1, QUERY, k=2)
    assert [(c.move, c.hit.uri, c.reasons, c.rank_a, c.rank_b, c.came, c.left) for c in back.hits or ()] == [
        ("up", "pets:/owls.txt", ("others",), 2, 1, 0, 1),
        ("in", "pets:/cats.txt", ("others",), 3, 2, 0, 1),
        ("out", "pets:/bats.txt", ("removed",), 1, None, 0, 0),
    ]


def test_a_changed_text(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "owls.txt", "Owls live in old trees.")
    workspace.ingest()
    found = workspace.diff(1, 2, QUERY, k=4)
    owls = hit(found, "pets:/owls.txt")
    assert (owls.move, owls.reasons, owls.rank_a) == ("down", ("text",), 1)
    assert owls.a is not None
    assert owls.b is not None
    assert owls.a.score > owls.b.score
    assert hit(found, "pets:/cats.txt").reasons == ("others",)


@pytest.mark.parametrize("mode", ["bm25", "hybrid"])
def test_the_hits_of_other_modes(workspace: Workspace, pets: Path, mode: Mode) -> None:
    workspace.ingest(pets)
    put(pets, "owls.txt", "Owls live in old trees.")
    put(pets, "bats.txt", "Who will hunt at night and sleep by day? Bats.")
    (pets / "cats.txt").unlink()
    workspace.ingest()
    found = workspace.diff(1, 2, QUERY, k=4, mode=mode)
    assert found.hits is not None
    for release, rank, side in ((1, "rank_a", "a"), (2, "rank_b", "b")):
        hits = workspace.search(QUERY, 4, release=release, mode=mode, collapse=False).hits
        told = {getattr(change, rank): getattr(change, side) for change in found.hits if getattr(change, rank)}
        assert [told[place].chunk_id for place in range(1, len(hits) + 1)] == [each.chunk_id for each in hits]
    bats, owls, cats = (hit(found, f"pets:/{name}.txt") for name in ("bats", "owls", "cats"))
    assert (bats.move, bats.reasons) == ("in", ("added",))
    assert owls.reasons == ("text",)
    assert (cats.move, cats.reasons) == ("out", ("removed",))
    for change in found.hits:
        assert change.reasons or change.move == "same"
        if change.hit.uri not in (bats.hit.uri, owls.hit.uri, cats.hit.uri):
            assert change.reasons in ((), ("others",))


def test_an_edit_that_is_not_what_moved_the_hit(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "owls.txt", PETS["owls.txt"].replace("old trees", "tall old trees"))
    put(pets, "bats.txt", "Who will hunt at night and sleep by day? Bats.")
    workspace.ingest()
    owls = hit(workspace.diff(1, 2, QUERY, k=4), "pets:/owls.txt")
    assert (owls.move, owls.reasons, owls.came) == ("down", ("others", "text"), 1)


def test_an_edit_that_is_not_what_put_the_hit_out(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "cats.txt", PETS["cats.txt"].replace("Cats", "Old cats"))
    put(pets, "bats.txt", "Who will hunt at night and sleep by day? Bats.")
    workspace.ingest()
    cats = hit(workspace.diff(1, 2, QUERY, k=2), "pets:/cats.txt")
    assert (cats.move, cats.reasons, cats.rank_a, cats.rank_b, cats.came) == ("out", ("others", "text"), 2, 3, 1)


def test_a_moved_document_stays_one_hit(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    (pets / "owls.txt").rename(pets / "birds.txt")
    workspace.ingest()
    birds = hit(workspace.diff(1, 2, QUERY, k=2), "pets:/birds.txt")
    assert (birds.move, birds.reasons, birds.rank_a, birds.rank_b) == ("same", ("moved",), 1, 1)
    assert birds.a is not None
    assert birds.a.uri == "pets:/owls.txt"


@pytest.mark.parametrize(("before", "after"), [("null", "24"), ("60", "24")])
def test_another_cut_of_the_same_text(workspace: Workspace, tmp_path: Path, before: str, after: str) -> None:
    workspace = params(workspace, "size: null", f"size: {before}")
    workspace.ingest(write_corpus(tmp_path / "house", {"long.txt": LONG}))
    workspace = params(workspace, f"size: {before}", f"size: {after}")
    workspace.ingest()
    for a, b in ((1, 2), (2, 1)):
        question = "who has the key to the library"
        hits = workspace.diff(a, b, question, k=3).hits or ()
        assert {change.reasons for change in hits} == {("chunking",)}
        # every hit once, and none beside a passage that stands for another hit
        assert [c.rank_b for c in hits if c.move != "out"] == [
            *range(1, len(workspace.search(question, 3, release=b).hits) + 1)
        ]
        assert sorted(c.rank_a or 0 for c in hits if c.move != "in") == [
            *range(1, len(workspace.search(question, 3, release=a).hits) + 1)
        ]
        assert all(c.rank_b is None or c.rank_b > 3 for c in hits if c.move == "out")
        assert all(c.rank_a is None or c.rank_a > 3 for c in hits if c.move == "in")


def test_overlap_adds_passages_and_leaves_the_others(workspace: Workspace, tmp_path: Path) -> None:
    workspace = params(workspace, "size: null", "size: 60")
    workspace.ingest(write_corpus(tmp_path / "house", {"long.txt": LONG}))
    workspace = params(workspace, "overlap: 0", "overlap: 24")
    workspace.ingest()
    found = workspace.diff(1, 2, "who has the key to the library", k=3)
    assert [(c.move, c.reasons, c.rank_a, c.rank_b, c.came, c.left) for c in found.hits or ()] == [
        ("same", (), 1, 1, 0, 0),
        ("in", ("chunking",), None, 2, 0, 0),
        ("in", ("chunking",), None, 3, 0, 0),
        ("out", ("others",), 2, 4, 2, 0),
        ("out", ("others",), 3, 5, 2, 1),
    ]


def test_a_title_changes_what_the_model_reads(workspace: Workspace, pets: Path) -> None:
    body = "# Owls\n\nOwls live in old trees.\n"
    put(pets, "owls.md", f"---\ntitle: Birds of the night\n---\n{body}")
    workspace.ingest(pets)
    put(pets, "owls.md", f"---\ntitle: Who will hunt at night and sleep by day\n---\n{body}")
    workspace.ingest()
    owls = hit(workspace.diff(1, 2, QUERY, k=5), "pets:/owls.md")
    assert owls.reasons == ("metadata",)
    assert owls.move == "up"


def test_another_model_moves_hits(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "owls.txt", "Owls live in old trees.")
    workspace = params(workspace, "hash:64", "hash:2")
    workspace.ingest()
    found = workspace.diff(1, 2, QUERY, k=4)
    moved = [change for change in found.hits or () if change.move != "same"]
    assert moved
    for change in moved:
        own = ("text",) if change.hit.uri == "pets:/owls.txt" else ()
        assert change.reasons == (*own, "model")


def test_a_filter_hides_what_is_there(workspace: Workspace, pets: Path) -> None:
    for name in ("one", "two"):
        put(pets, f"{name}.md", f"---\nlang: en\n---\n# {name}\n\nWho will hunt at night.\n")
    workspace.ingest(pets)
    put(pets, "two.md", "---\nlang: de\n---\n# two\n\nWho will hunt at night.\n")
    workspace.ingest()
    found = workspace.diff(1, 2, QUERY, filter={"meta.lang": "en"})
    two = hit(found, "pets:/two.md")
    assert (two.move, two.reasons, two.rank_b) == ("out", ("filter", "metadata"), None)
    assert hit(found, "pets:/one.md").move in ("same", "up")
    back = hit(workspace.diff(2, 1, QUERY, filter={"meta.lang": "en"}), "pets:/two.md")
    assert (back.move, back.reasons) == ("in", ("filter", "metadata"))


def test_edits_elsewhere_in_a_document_do_not_count(workspace: Workspace, tmp_path: Path) -> None:
    house = write_corpus(tmp_path / "house", {"long.txt": LONG})
    workspace = params(workspace, "size: null", "size: 24")
    workspace.ingest(house)
    put(house, "long.txt", "An opening that nobody asked for.\n\n" + LONG)
    workspace.ingest()
    found = workspace.diff(1, 2, "who has the key to the library", k=3)
    assert {(change.move, change.reasons) for change in found.hits or ()} == {("same", ())}


def test_an_edited_passage_is_found_again_wherever_it_went(workspace: Workspace, tmp_path: Path) -> None:
    house = write_corpus(tmp_path / "house", {"long.txt": LONG})
    workspace = params(workspace, "size: null", "size: 24")
    workspace.ingest(house)
    opening = "\n\n".join(f"Opening number {n} tells nothing that anybody would ever ask for." for n in range(9))
    put(house, "long.txt", f"{opening}\n\n{LONG.replace('the library of', 'the library and its books of')}")
    workspace.ingest()
    (change,) = workspace.diff(1, 2, "the library", k=1).hits or ()
    assert (change.move, change.reasons) == ("same", ("text",))
    assert change.a is not None
    assert change.b is not None
    assert change.b.start > change.a.end
    assert "its books" in change.b.text


class Forgetful:
    """A reader whose index passes over the best point, as an approximate one may."""

    def __init__(self, reader: Reader) -> None:
        self.release, self.points, self._reader = reader.release, reader.points, reader

        self.retrieve = reader.retrieve

    def rank(self, legs: Sequence[Leg], k: int, *args: Any, exact: bool = False, **options: Any) -> list[list[Place]]:
        skipped = 0 if exact else 1
        return [leg[skipped:] for leg in self._reader.rank(legs, k + skipped, *args, exact=exact, **options)]


def test_what_the_index_passed_over(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    reader: Any = workspace.reader()
    forgetful: Any = Forgetful(reader)
    encoder = workspace.encoder(reader.release)
    first, second, *_ = explain(forgetful, reader, encoder, encoder, QUERY, k=2)
    assert (first.move, first.reasons, first.rank_a, first.rank_b) == ("in", ("index",), 1, 1)
    assert (second.move, second.reasons) == ("down", ("others",))
    *_, last = explain(reader, forgetful, encoder, encoder, QUERY, k=2)
    assert (last.move, last.reasons, last.rank_b) == ("out", ("index",), 1)
    assert {change.move for change in explain(forgetful, reader, encoder, encoder, QUERY, k=2, exact=True)} == {"same"}


# ------------------------------------------------------------------ the command line
def run(workspace: Workspace, *arguments: str) -> str:
    app = typer.Typer()
    app.command()(cli.command)
    result = CliRunner().invoke(app, ["-w", str(workspace.root), *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    put(pets, "owls.txt", "Owls live in old trees.")
    (pets / "fish.txt").rename(pets / "water.txt")
    (pets / "dogs.txt").unlink()
    workspace.ingest()
    text = run(workspace, "1", "2", "--query", QUERY)
    assert "release  1 -> 2" in text
    assert "moved    pets:/fish.txt -> pets:/water.txt" in text
    assert "removed  pets:/dogs.txt  (chunks: 1 removed)" in text
    assert "others (" in text
    value = json.loads(run(workspace, "--json"))
    assert (value["a"], value["b"], value["space_changed"]) == (1, 2, False)
    assert value["documents"]["moved"] == [["pets:/fish.txt", "pets:/water.txt"]]
    assert value["chunks"] == {"added": 1, "removed": 2, "changed": 0, "moved": 1, "unchanged": 1}
    assert len(value["by_document"]) == 3
    assert "hits" not in value
    hits = json.loads(run(workspace, "--json", "-q", QUERY, "-k", "1"))["hits"]
    assert {"move", "reasons", "rank_a", "rank_b", "score_a", "score_b", "uri", "text"} <= set(hits[0])
    assert "... and 2 more documents; all: --limit 3" in run(workspace, "--limit", "1")


def test_options_of_a_query_need_one(workspace: Workspace, pets: Path) -> None:
    workspace.ingest(pets)
    with pytest.raises(UsageError, match="are for a query"):
        run(workspace, "1", "1", "-k", "3")


def test_rows_are_read_in_stretches(workspace: Workspace, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.ingest(corpus)
    whole = list(workspace.store.point_rows(1))
    assert len(whole) > 4
    for stretch in (1, 2, len(whole)):
        monkeypatch.setattr("ragops.stores.edge.STRETCH", stretch)
        assert list(workspace.store.point_rows(1)) == whole
