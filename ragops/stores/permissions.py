"""Today's permissions over sealed releases: `<collection>/permissions.json` beside `releases/`.

A sealed release holds tenant and groups as they were. An entry here says what they are now, for every release up to
a number; readers put it into what they give, and into the filters that they are given.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson

from ragops import durable
from ragops.errors import SchemaError, StoreError
from ragops.stores.filters import Either, Every, Exists, Node, Not, Texts
from ragops.stores.manifest import Damaged
from ragops.types import Permission

SCHEMA = 1
MEND = "`ragops ingest` writes it anew. Until then nothing is given out: old permissions may show too much."


class Entry(NamedTuple):
    """The permissions of a document in every release up to `upto`."""

    tenant: str
    groups: tuple[str, ...]
    upto: int


Entries: TypeAlias = Mapping[str, Entry]  # by document id


# ---------------------------------------------------------------- what applies where
def merged(entries: Entries, permissions: Mapping[str, Permission], upto: int) -> Entries:
    """Later words win, for whatever an earlier word covers too: they are today's."""
    new = dict(entries)
    for document, (tenant, groups) in permissions.items():
        old = entries.get(document)
        new[document] = Entry(tenant, tuple(groups), upto if old is None else max(upto, old.upto))
    return new


def trimmed(entries: Entries, numbers: Sequence[int]) -> Entries:
    """Without what no release needs. A number that comes again is another release: no entry may reach to it."""
    if not numbers:
        return {}
    oldest, newest = min(numbers), max(numbers)
    return {id: each._replace(upto=min(each.upto, newest)) for id, each in entries.items() if each.upto >= oldest}


def carried(entries: Entries, documents: Iterable[str], base: int, number: int) -> Entries:
    """With what applies to `base` applying to `number` too, for documents whose points were copied from there."""
    new = dict(entries)
    for document in documents:
        each = entries.get(document)
        if each is not None and base <= each.upto < number:
            new[document] = each._replace(upto=number)
    return new


def applying(entries: Entries, number: int) -> dict[str, Permission]:
    """Document id -> permissions, for one release."""
    return {id: (each.tenant, each.groups) for id, each in entries.items() if each.upto >= number}


def payload(sealed: Mapping[str, Any], today: Mapping[str, Permission]) -> Mapping[str, Any]:
    """A point's payload as it is today."""
    permission = today.get(sealed.get("document_id", "")) if today else None
    return sealed if permission is None else {**sealed, "tenant": permission[0], "groups": list(permission[1])}


# ---------------------------------------------------------------- filters
def rewritten(tree: Every | None, today: Mapping[str, Permission]) -> Every | None:
    """A filter that finds in the sealed payloads what `tree` would find in today's.

    Either the sealed payload decides and the document has no entry, or the entry decides: documents are gathered by
    what is left of the filter once tenant and groups are known, so the filter grows with its own size only.
    """
    if tree is None or not today or not _asks(tree):
        return tree
    left: dict[Permission, Node | bool] = {}
    gathered: dict[Node | bool, list[str]] = {}
    for document, permission in today.items():
        if permission not in left:
            left[permission] = _decided(tree, permission)
        gathered.setdefault(left[permission], []).append(document)
    ways = [Every((*tree.parts, Not(Texts("document_id", tuple(today)))))]
    for rest, documents in gathered.items():
        if rest is not False:
            those = Texts("document_id", tuple(documents))
            ways.append(Every((those,) if rest is True else (those, rest)))
    return Every((Either(tuple(ways)),))


def _asks(node: Node) -> bool:
    """Whether a filter looks at permissions at all."""
    match node:
        case Every(parts) | Either(parts):
            return any(map(_asks, parts))
        case Not(part):
            return _asks(part)
        case _:
            return node.key in ("tenant", "groups")


def _decided(node: Node, permission: Permission) -> Node | bool:
    """What is left of a filter for a document of these permissions."""
    tenant, groups = permission
    match node:
        case Texts("tenant", values):
            return tenant in values
        case Texts("groups", values):
            return not set(groups).isdisjoint(values)
        case Exists("tenant", yes):
            return yes  # an empty text is there
        case Exists("groups", yes):
            return bool(groups) is yes
        case Every(parts):
            left = [_decided(part, permission) for part in parts]
            open_ = tuple(part for part in left if not isinstance(part, bool))
            return False if False in left else Every(open_) if open_ else True
        case Either(parts):
            left = [_decided(part, permission) for part in parts]
            open_ = tuple(part for part in left if not isinstance(part, bool))
            return True if True in left else Either(open_) if open_ else False
        case Not(part):
            inner = _decided(part, permission)
            return not inner if isinstance(inner, bool) else Not(inner)
        case _:
            return node


# ---------------------------------------------------------------- the file
def read(path: Path) -> Entries:
    """Nothing where there is no file. Raises Damaged, SchemaError, StoreError."""
    return _read(path)[1]


def write(path: Path, entries: Entries) -> None:
    """Replace the file so that every reader notices, however fast writes follow one another."""
    documents = {id: list(each) for id, each in entries.items()}
    try:
        before = os.stat(path).st_mtime_ns
    except FileNotFoundError:
        before = 0
    durable.write_atomic(path, orjson.dumps({"schema": SCHEMA, "documents": documents, "seal": _seal(documents)}))
    if os.stat(path).st_mtime_ns <= before:  # a coarse clock, and the inode may come again
        os.utime(path, ns=(before + 1, before + 1))


class Today:
    """The permissions that differ from one sealed release. Costs a stat a call while nothing changes."""

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        self._known: tuple[_Stamp | None, dict[str, Permission]] = (None, {})

    def __call__(self) -> Mapping[str, Permission]:
        """By document id. Raises Damaged, SchemaError, StoreError."""
        stamp, found = self._known
        if _stat(self._path) == stamp:
            return found
        stamp, entries = _read(self._path)
        found = applying(entries, self._number)
        self._known = stamp, found  # one step: readers may be shared by threads
        return found


_Stamp: TypeAlias = tuple[int, int, int]


def _stat(path: Path) -> _Stamp | None:
    try:
        return _stamp(os.stat(path))
    except FileNotFoundError:
        if not path.parent.is_dir():  # the files that are open still read well, but who knows what was changed since
            raise StoreError(
                f"{path.parent} is there no more, so today's permissions are not known",
                "If its workspace was moved, open it at its new place; if it was removed, restore it.",
            ) from None
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> tuple[_Stamp | None, Entries]:
    try:
        with open(path, "rb") as file:
            stamp, data = _stamp(os.fstat(file.fileno())), file.read()
    except FileNotFoundError:
        return None, {}
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        value = orjson.loads(data)
        schema = value["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise SchemaError.newer(path, schema, SCHEMA)
        documents = value["documents"]
        if value["seal"] != _seal(documents):
            raise ValueError("its seal does not fit its content")
        return stamp, {id: Entry(tenant, tuple(groups), upto) for id, (tenant, groups, upto) in documents.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path}, today's permissions, is damaged: {error}", MEND) from error


def _seal(documents: Any) -> str:
    return hashlib.sha256(orjson.dumps(documents, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}, today's permissions, cannot be read: {error.strerror}",
        "Give this user read permission to the store.",
    )
