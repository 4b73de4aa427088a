"""A path on the command line to a source of params.yaml: the one that has it, or a new one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ragops import config
from ragops.config import Settings, SourceSettings, Where
from ragops.errors import UsageError
from ragops.params import quoted


def match(root: Path, settings: Settings, path: Path) -> tuple[SourceSettings | None, str]:
    """The source that is or holds `path`, and the part of it that `path` is ("": all). Raises UsageError."""
    target = path.resolve()
    if not target.exists():
        raise UsageError(
            f"{path}: no such file or folder", "Check the path; `ragops ingest` alone runs the sources it knows."
        )
    for source in settings.sources:
        place = source.options.get("path")
        if not isinstance(place, str):
            continue
        base = _target(root, place)
        if target == base:
            return source, ""
        if source.connector == "files" and base in target.parents:
            return source, target.relative_to(base).as_posix()
    return None, ""


def add(root: Path, settings: Settings, path: Path) -> tuple[SourceSettings, str]:
    """A new source for `path` and the text of params.yaml with it. Raises UsageError."""
    target = path.resolve()
    connector = "files"
    if target.is_file():
        from ragops_connectors.rows import SUFFIXES

        if not target.name.lower().endswith(tuple(ending for endings in SUFFIXES.values() for ending in endings)):
            raise UsageError(
                f"{path} is a file; ragops ingests folders, or the rows of a JSONL, CSV, TSV or Parquet file",
                f"Ingest its folder: ragops ingest {path.parent}",
            )
        connector = "records"
    for source in settings.sources:
        place = source.options.get("path")
        if source.connector == "files" and isinstance(place, str) and target in _target(root, place).parents:
            raise UsageError(
                f"{path} holds the source '{source.name}' ({place}): its files would be ingested twice",
                f"Run `ragops ingest` for the known sources, or replace '{source.name}' in {root / config.FILE}.",
            )
    name = _name(target.stem if connector == "records" else target.name, {source.name for source in settings.sources})
    try:
        place = target.relative_to(root.resolve()).as_posix() or "."
    except ValueError:
        place = str(target)
    if place.startswith("~"):  # else the home folder would be meant
        place = str(target)
    lines = [f"  - name: {quoted(name)}", f"    connector: {connector}", f"    path: {quoted(place)}"]
    params = root / config.FILE
    text = _insert(params.read_text("utf-8") if params.exists() else "", lines)
    found = next(source for source in config.parse(text).sources if source.name == name)
    return SourceSettings(found.name, found.connector, found.options, Where(config.FILE)), text


def _insert(text: str, lines: list[str]) -> str:
    """params.yaml with one more entry at the end of `sources`; comments and order stay as they are."""
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    body = text.splitlines()
    for key, value in node.value if node is not None else ():
        if key.value != "sources":
            continue
        if isinstance(value, yaml.SequenceNode) and value.value and not value.flow_style:
            end = value.value[-1].end_mark
            at = end.line + (end.column > 0)  # the last line may lack its end
            while at > 0 and (not body[at - 1].strip() or body[at - 1].lstrip().startswith("#")):
                at -= 1  # before the blank lines and comments that belong to what follows
            indent = " " * (value.value[0].start_mark.column - 2)
            return "\n".join([*body[:at], *(indent + line[2:] for line in lines), *body[at:]]) + "\n"
        if (isinstance(value, yaml.SequenceNode) and value.value) or value.end_mark.line != key.start_mark.line:
            raise UsageError(
                f"{config.FILE}:{key.start_mark.line + 1}: 'sources' stands in a form that ragops does not edit",
                "Write one source per '- ' entry, or add this one yourself:\n" + "\n".join(lines),
            )
        at = key.start_mark.line
        return "\n".join([*body[:at], "sources:", *lines, *body[at + 1 :]]) + "\n"  # `sources:` or `sources: []`
    return "\n".join([*body, "sources:", *lines]) + "\n"


def _name(stem: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[:48] or "source"
    name, n = base, 2
    while name in taken:
        name, n = f"{base}-{n}", n + 1
    return name


def _target(root: Path, place: str) -> Path:
    """Where a source's `path` leads, as its connector reads it."""
    return (root / os.path.expanduser(place)).resolve()
