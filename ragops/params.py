"""Changes to params.yaml as a person would make them: one value, with comments, order and layout as they were."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ragops import config
from ragops.errors import UsageError


def destination(to: str) -> str | None:
    """The `store.url` that a person means: a server's address, or None for "embedded". Raises UsageError."""
    if to == config.EMBEDDED:
        return None
    if not config.is_address(to):
        raise UsageError(
            f'{to!r} is neither the address of a Qdrant server nor "{config.EMBEDDED}"',
            "Such as http://localhost:6333, without a name and password: a key comes from the environment.",
        )
    return to


def with_store_url(text: str, url: str | None) -> str:
    """The text of params.yaml with another `store.url`; None: the embedded store. Raises UsageError."""
    if config.parse(text).store.url == url:
        return text
    changed = _with(text, "store", "url", "null" if url is None else quoted(url))
    if config.parse(changed).store.url != url:
        raise UsageError(
            f"'store' in {config.FILE} stands in a form that ragops does not edit",
            f"Set it yourself: under `store:` the line `url: {url or 'null'}`.",
        )
    return changed


def with_version(text: str) -> str:
    """The text of params.yaml with the version that this ragops knows."""
    import yaml

    for key, value in _root(yaml.compose(text, Loader=yaml.SafeLoader)):
        if key.value == "version":
            return text[: value.start_mark.index] + str(config.VERSION) + text[value.end_mark.index :]
    return text


def _root(node: Any) -> Any:
    return node.value if node is not None else ()


def _with(text: str, section: str, name: str, value: str) -> str:
    import yaml

    lines = text.splitlines(keepends=True)
    for key, found in _root(yaml.compose(text, Loader=yaml.SafeLoader)):
        if key.value != section:
            continue
        for inner, old in found.value if isinstance(found, yaml.MappingNode) else ():
            if inner.value == name:
                start, end = old.start_mark.index, old.end_mark.index
                space = "" if text[start - 1 : start].isspace() else " "  # `url:` with nothing behind it
                return text[:start] + space + value + text[end:]
        if isinstance(found, yaml.MappingNode) and found.flow_style:
            at = found.start_mark.index + 1
            return text[:at] + f"{name}: {value}" + (", " if found.value else "") + text[at:]
        if isinstance(found, yaml.MappingNode):  # after its last key, before the comments that follow
            last = found.value[-1][1]
            end = last.end_mark.line + (last.end_mark.column > 0 or last.end_mark.line == last.start_mark.line)
            indent = " " * found.value[0][0].start_mark.column
        else:  # `store:` without anything under it
            end, indent = key.start_mark.line + 1, "  "
        head = "".join(lines[:end])
        return f"{head}{'' if head.endswith(chr(10)) else chr(10)}{indent}{name}: {value}\n" + "".join(lines[end:])
    return text + ("" if not text or text.endswith("\n") else "\n") + f"{section}:\n  {name}: {value}\n"


def quoted(text: str) -> str:
    """YAML that is read back as this text: plain where that is so, which it is not for 2024, null or on."""
    import yaml

    with contextlib.suppress(yaml.YAMLError, ValueError, AttributeError):
        if re.fullmatch(r"[A-Za-z0-9_./:-]+", text) and yaml.safe_load(text) == text:
            return text
    return json.dumps(text, ensure_ascii=False)
