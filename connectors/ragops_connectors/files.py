"""Files below a folder."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

from ragops.errors import ConfigError, FetchError, ScanError, UsageError, Vanished
from ragops.types import Entry, Metadata, Reject, Source, Unchanged

FRESH_NS = 2_000_000_000  # a file touched less than this ago may change again under the same token
_KEPT_OPEN = 64  # folders of the way down that stay open while they are listed
ATTEMPTS = 3  # reads of a file that changes meanwhile
_NEVER = frozenset((".ragops", ".git", ".dvc", ".hg", ".svn"))
#: What ragops itself writes into a workspace: a source that holds its own workspace must not feed on it.
_OWN = {
    "": frozenset(("params.yaml", "dvc.yaml", "dvc.lock")),
    "data": frozenset(("snapshot", "dataset", "models", "snapshot.dvc", "loaded.json")),
}


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """Settings of the connector `files`."""

    path: str = "."
    """The folder, absolute or from the workspace."""
    include: tuple[str, ...] = ()
    """Globs of what to take; nothing means everything. `*.md` matches in every folder, `guide/*.md` from the top,
    `**` any number of folders, and a folder's name all that is in it."""
    exclude: tuple[str, ...] = ()
    """Globs of what to leave out, in the same form; stronger than `include`."""
    hidden: bool = False
    """Take files and folders whose names begin with a dot, too (never `.git`, `.hg`, `.svn`, `.dvc` and `.ragops`)."""
    follow_symlinks: bool = False
    """Follow symbolic links, also to places outside of the folder. A folder reached twice is listed once."""
    max_bytes: int = 100_000_000
    """Larger files are rejected without being read."""
    tenant: str = ""
    """Whose files these are; searches of other tenants do not see them."""
    groups: tuple[str, ...] = ()
    """Groups that may see them."""


class Files:
    """Every file below a folder is a source; its URI is `<name>:/<relative path, NFC>`."""

    Settings: ClassVar[type] = FilesSettings
    narrows: ClassVar[bool] = True

    def __init__(self, name: str, root: Path, settings: FilesSettings, subtree: str = "") -> None:
        """`root`: the workspace, that `settings.path` starts from. `subtree`: a folder or file below, in posix form;
        only it is listed and owned. Raises ConfigError, UsageError."""
        if settings.max_bytes <= 0:
            raise ConfigError(f"source '{name}': 'max_bytes' takes a number of bytes above 0, not {settings.max_bytes}")
        if not settings.path:
            raise ConfigError(f"source '{name}': 'path' is empty", "Write the folder's path, or '.' for the workspace.")
        parts = [part for part in _nfc(subtree).split("/") if part not in ("", ".")]
        if ".." in parts or subtree.startswith("/"):
            raise UsageError(f"source '{name}': {subtree!r} does not lie in it")
        self.name = name
        self.settings = settings
        self.root = os.path.realpath(os.path.join(root, os.path.expanduser(settings.path)))
        self.workspace = os.path.realpath(root)
        self.subtree = tuple(parts)
        self.include = _compile(name, "include", settings.include)
        self.exclude = _compile(name, "exclude", settings.exclude)
        self._identity: tuple[int, int] | None = None  # of the root when it was listed

    def scan(self, known: Callable[[str], str | None]) -> FilesScan:
        """List files in the order of their URIs' code points. Raises ScanError where the root cannot be listed."""
        return FilesScan(self)

    def owns(self, uri: str) -> bool:
        """By place alone: what `include` and `exclude` newly leave out is still owned, and so deleted."""
        prefix = f"{self.name}:/{'/'.join(self.subtree)}"
        return uri.startswith(prefix) and (not self.subtree or uri[len(prefix) : len(prefix) + 1] in ("", "/"))

    def identify(self) -> tuple[int, int]:
        """Device and inode of the root, remembered: a root that is replaced later is not mistaken for an empty one."""
        try:
            found = os.stat(self.root)
        except OSError as error:
            raise ScanError(
                f"source '{self.name}': the folder {self.root} cannot be read: {error.strerror}",
                "Mount or create it, or correct the source's 'path'. Nothing is deleted because of this.",
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise ScanError(
                f"source '{self.name}': {self.root} is not a folder",
                f"Give the folder that it lies in, and name the file in 'include': [{os.path.basename(self.root)!r}]",
            )
        self._identity = (found.st_dev, found.st_ino)
        return self._identity

    def fetch(self, entry: Entry) -> Source:
        """Read one file whole, and make sure that it held still meanwhile.

        Raises Vanished where it is gone or is no plain file any more, FetchError where it cannot be read (transient),
        keeps changing (transient) or has grown too large.
        """
        relative = entry.locator or entry.uri.partition(":/")[2]
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.05 * attempt)
            fd = self._open(entry.uri, relative)
            try:
                data, found = self._read(entry.uri, fd)
            except OSError as error:
                raise _unreadable(entry.uri, error) from error
            finally:
                os.close(fd)
            if data is not None:
                from ragops_connectors.media import sniff  # a scan alone needs no magic numbers

                media_type, encoding = sniff(relative, data)
                return Source(
                    uri=entry.uri,
                    data=data,
                    media_type=media_type,
                    encoding=encoding,
                    metadata=self._metadata(entry.uri),
                    token=token(found),
                    settled=settled(found),
                )
        raise FetchError(f"{entry.uri}: it changes while it is read", "It is read again at the next run.")

    def _read(self, uri: str, fd: int) -> tuple[bytes | None, os.stat_result]:
        """The bytes, or None where the file changed meanwhile."""
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise Vanished(f"{uri}: it is no plain file any more")
        limit = self.settings.max_bytes
        if before.st_size > limit:
            raise FetchError(*_too_large(uri, before.st_size, limit), code="too_large", transient=False)
        parts: list[bytes] = []
        left = before.st_size + 1
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
        after = os.fstat(fd)
        # One byte more than it had, or fewer: it grew or shrank, whatever its times say.
        return (b"".join(parts) if left == 1 and token(before) == token(after) else None), after

    def _open(self, uri: str, relative: str) -> int:
        """Open below the root, so that no link that appears meanwhile leads out of it."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        parts = relative.split("/")
        if not all(parts) or ".." in parts or "." in parts:
            raise FetchError(f"{uri}: {relative!r} is no path below the source", transient=False)
        try:
            folder = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as error:  # the root is gone, and that says nothing about the file
            raise _unreadable(uri, error) from error
        try:
            at = os.fstat(folder)
            if self._identity not in (None, (at.st_dev, at.st_ino)):
                raise FetchError(f"{uri}: another folder took the place of {self.root}", "Is it mounted?")
            if self.settings.follow_symlinks:
                return os.open(relative, flags, dir_fd=folder)
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise Vanished(f"{uri}: it was there when it was listed and is gone") from error
            raise _unreadable(uri, error) from error
        finally:
            os.close(folder)

    def _metadata(self, uri: str) -> Metadata:
        folder, _, name = uri.partition(":/")[2].rpartition("/")
        fields = {"folder": folder, "ext": os.path.splitext(name)[1][1:].lower()}
        return Metadata(tenant=self.settings.tenant, groups=self.settings.groups, fields=fields)


@dataclass(slots=True)
class _Folder:
    """One folder on the way down."""

    relative: str  # its path below the root, as on disk; "" or with a slash at its end
    shown: str  # the same as in URIs
    pending: Iterator[tuple[str, os.DirEntry[str]]]  # keys and entries; the key of a folder ends with a slash
    rejects: list[Reject]
    fd: int | None  # of the folder: with it the system need not find the way to each of its files


class FilesScan:
    """One walk. Memory grows with the largest single folder, not with the tree."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.complete = True
        self.containers: Mapping[str, str] = {}
        self._linked: set[tuple[int, int]] = set()  # folders outside that a link has led to
        self._surely_settled = time.time_ns() - FRESH_NS

    def __iter__(self) -> Iterator[Entry | Unchanged | Reject]:
        levels: list[_Folder] = []
        try:
            yield from self._walk(levels)
        finally:
            for folder in levels:  # left over where the walk was broken off
                if folder.fd is not None:
                    os.close(folder.fd)

    def _walk(self, levels: list[_Folder]) -> Iterator[Entry | Reject]:
        files = self.files
        identity = files.identify()
        found = not files.subtree
        levels.append(self._listed("", "", 0))
        # Asked of every file, so looked up once.
        include, horizon, prefix = files.include, self._surely_settled, f"{files.name}:/"
        follow, limit = files.settings.follow_symlinks, files.settings.max_bytes
        while levels:
            folder = levels[-1]
            relative, shown = folder.relative, folder.shown
            if folder.rejects:
                yield from folder.rejects
                folder.rejects.clear()
            on_the_way = len(levels) < len(files.subtree)
            for key, item in folder.pending:
                if key[-1] == "/":
                    found = found or not on_the_way
                    levels.append(self._listed(f"{relative}{item.name}/", shown + key, len(levels)))
                    break
                if on_the_way:
                    continue  # a file where a folder was asked for
                found = True
                path = shown + key
                if include is not None and not include(path):
                    continue
                try:
                    at = item.stat(follow_symlinks=follow)
                except FileNotFoundError:
                    continue  # deleted since
                except OSError as error:
                    reason = f"cannot be read: {error.strerror}"
                    yield self._reject(path, "unreadable", reason, "Make it readable.", True)
                    continue
                size = at.st_size
                if size > limit or not stat.S_ISREG(at.st_mode):
                    yield self._refused(path, at)
                    continue
                yield Entry(
                    prefix + path, token(at), size, relative + item.name, "", at.st_mtime_ns <= horizon or settled(at)
                )
            else:
                levels.pop()
                if folder.fd is not None:
                    os.close(folder.fd)
        if not found:
            raise ScanError(
                f"source '{files.name}': nothing to list at {'/'.join(files.subtree)!r}: missing, hidden or excluded",
                "Correct the path; to remove what was there, ingest the whole source.",
            )
        if files.identify() != identity:
            self.complete = False  # unmounted or swapped while it was listed

    def _listed(self, relative: str, shown: str, depth: int) -> _Folder:
        """A folder's entries in URI order."""
        files = self.files
        path = f"{files.root}/{relative}"
        items: list[tuple[str, os.DirEntry[str]]] = []
        rejects: list[Reject] = []
        plain = True  # every name is ASCII
        hidden, exclude = files.settings.hidden, files.exclude
        own = self._own(path)
        fd: int | None = None
        only = files.subtree[depth] if depth < len(files.subtree) else None
        try:
            if depth < _KEPT_OPEN:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            with os.scandir(path if fd is None else fd) as entries:
                for item in entries:
                    name = item.name
                    if name[0] == "." and (not hidden or name in _NEVER):
                        continue
                    if name in own:
                        continue
                    if not name.isascii():
                        name = _nfc(name)
                        plain = False
                    if only is not None and name != only:
                        continue
                    if not name.isprintable() and _unspeakable(name):
                        rejects.append(self._bad_name(shown, item.name, "it has control characters or is not UTF-8"))
                        continue
                    if item.is_symlink():
                        key = self._link(path + item.name, name, shown, rejects)
                        if key is None:
                            continue
                    else:
                        key = f"{name}/" if item.is_dir(follow_symlinks=False) else name
                    if exclude is not None and exclude(shown + name):
                        continue
                    items.append((key, item))
        except OSError as error:
            if not relative:
                if fd is not None:
                    os.close(fd)
                raise ScanError(
                    f"source '{files.name}': the folder {files.root} cannot be listed: {error.strerror}",
                    "Nothing is deleted because of this.",
                ) from error
            # Also where it vanished: its files may have moved to a place that was listed before.
            self.complete = False
            if not isinstance(error, FileNotFoundError):
                hint = "Make the folder readable; until then nothing of this source is deleted."
                rejects.append(
                    self._reject(f"{shown}", "unreadable", f"cannot be listed: {error.strerror}", hint, True)
                )
        items.sort(key=itemgetter(0))
        items = items if plain else self._no_twins(shown, items, rejects)
        return _Folder(relative, shown, iter(items), rejects, fd)

    def _no_twins(
        self, shown: str, items: list[tuple[str, os.DirEntry[str]]], rejects: list[Reject]
    ) -> list[tuple[str, os.DirEntry[str]]]:
        """Names that differ only in their Unicode form would share a URI: the one in NFC has it, else the first."""
        keys = {key for key, _ in items if not key.isascii()}
        if len(keys) == sum(not key.isascii() for key, _ in items):
            return items
        best: dict[str, os.DirEntry[str]] = {}
        for key, item in items:
            kept = best.setdefault(key, item)
            if (item.name != key.rstrip("/"), item.name) < (kept.name != key.rstrip("/"), kept.name):
                best[key] = item
        for key, item in items:
            if best[key] is not item:
                rejects.append(
                    self._bad_name(shown, item.name, "another name differs from it only in its Unicode form")
                )
                if key.endswith("/"):
                    self.complete = False  # what lies in it may have been listed under this name before
        return [pair for pair in items if best[pair[0]] is pair[1]]

    def _link(self, path: str, name: str, shown: str, rejects: list[Reject]) -> str | None:
        """The key of what a symbolic link leads to, or None where it is not followed."""
        files = self.files
        real = os.path.realpath(path)
        inside = real == files.root or real.startswith(f"{files.root}/")
        try:
            found = os.stat(real)
        except OSError:
            return None  # leads nowhere
        if not files.settings.follow_symlinks:
            if not inside and not (files.exclude and files.exclude(shown + name)):
                hint = "Set 'follow_symlinks: true' to follow it, or exclude it."
                rejects.append(self._reject(shown + name, "unsupported", "a link that leads out of the source", hint))
            return None
        if not stat.S_ISDIR(found.st_mode):
            return name
        # Inside, the folder is listed at its own place; above the root it would be listed without end.
        if inside or files.root.startswith(f"{real.rstrip('/')}/") or (found.st_dev, found.st_ino) in self._linked:
            return None
        self._linked.add((found.st_dev, found.st_ino))
        return f"{name}/"

    def _refused(self, shown: str, found: os.stat_result) -> Reject:
        if not stat.S_ISREG(found.st_mode):
            return self._reject(shown, "unsupported", "a pipe, a socket or a device", "Exclude it.")
        _, hint = _too_large("", found.st_size, self.files.settings.max_bytes)
        return self._reject(shown, "too_large", f"{found.st_size:,} bytes, above max_bytes", hint)

    def _own(self, path: str) -> frozenset[str]:
        workspace = self.files.workspace
        path = path.rstrip("/")
        if path == workspace:
            return _OWN[""]
        return _OWN["data"] if path == f"{workspace}/data" else frozenset()

    def _bad_name(self, shown: str, name: str, why: str) -> Reject:
        return self._reject(f"{shown}{_spelled(name)}", "bad_name", f"its name has no URI: {why}", "Rename it.")

    def _reject(self, shown: str, code: str, reason: str, hint: str, transient: bool = False) -> Reject:
        return Reject(f"{self.files.name}:/{shown}", self.files.name, "scan", code, reason, hint, None, transient)


def token(found: os.stat_result) -> str:
    """The change token of a file."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


def settled(found: os.stat_result) -> bool:
    """Whether the token can be trusted: a clock that lags or ticks slowly hides a change made just after."""
    return abs(time.time_ns() - found.st_mtime_ns) >= FRESH_NS


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _unspeakable(name: str) -> bool:
    """Control characters, line breaks and bytes that are no UTF-8 (surrogates, as the system hands them over)."""
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def _spelled(name: str) -> str:
    """A name in ASCII, for a message: escapes for all else, so that twins can be told apart."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")


def _too_large(uri: str, size: int, limit: int) -> tuple[str, str]:
    return f"{uri}: {size:,} bytes, above max_bytes", f"Raise 'max_bytes' (now {limit:,}) or exclude it."


def _unreadable(uri: str, error: OSError) -> FetchError:
    return FetchError(
        f"{uri}: cannot be read: {error.strerror}", "Make it readable; it is tried again at the next run."
    )


# ---------------------------------------------------------------- globs
def _compile(name: str, key: str, globs: Sequence[str]) -> Callable[[str], object] | None:
    if not globs:
        return None
    if not all(glob.strip("/") for glob in globs):
        raise ConfigError(f"source '{name}': '{key}' has an empty glob", "Remove it, or write '**' for everything.")
    return re.compile("|".join(translate(_nfc(glob)) for glob in globs)).fullmatch


def translate(glob: str) -> str:
    """A glob as a regular expression over posix paths: without a slash it matches at any depth, `**` matches any
    number of folders, `*` and `?` never a slash, and a match of a folder takes all that is in it."""
    glob = glob.removeprefix("./").rstrip("/")
    anchored = "/" in glob
    out: list[str] = [] if anchored else ["(?:.*/)?"]
    glob = glob.lstrip("/")
    at = 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
        elif char == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            out.append(".*" if end - at > 1 else "[^/]*")
            at = end
        elif char == "[" and (end := glob.find("]", at + (3 if glob[at + 1 : at + 2] == "!" else 2))) > 0:
            # A class of characters is spelled as fnmatch does, which knows its pitfalls, without its frame.
            out.append(f"(?!/){fnmatch.translate(glob[at : end + 1])[4:-3]}")
            at = end + 1
        else:
            out.append("[^/]" if char == "?" else re.escape(char))
            at += 1
    return f"(?s:{''.join(out)}(?:/.*)?)"
