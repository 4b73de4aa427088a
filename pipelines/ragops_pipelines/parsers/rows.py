"""Rows of cells to readable lines, for every format that has tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ragops.types import Block

ROWS_PER_BLOCK = 100


def table_blocks(rows: Iterable[Sequence[str]], *, page: int | None = None) -> list[Block]:
    """Rows as `a | b | c` lines. A long table becomes several blocks, each under the first row again."""
    lines = [line for line in map(_line, _without_empty_columns(list(rows))) if line]
    if len(lines) <= ROWS_PER_BLOCK + 1:
        return [Block("table", "\n".join(lines), page=page)] if lines else []
    header, body = lines[0], lines[1:]
    # A first row that is long is hardly a header, and saying it again would cost more than it explains.
    again = [header] if len(header) <= 500 else []
    return [
        Block("table", "\n".join((again if start else [header]) + body[start : start + ROWS_PER_BLOCK]), page=page)
        for start in range(0, len(body), ROWS_PER_BLOCK)
    ]


def _line(cells: Sequence[str]) -> str:
    texts = [" ".join(cell.split()) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return " | ".join(texts)


def _without_empty_columns(rows: list[Sequence[str]]) -> list[Sequence[str]]:
    """Spacer columns (financial reports are full of them) say nothing."""
    width = max(map(len, rows), default=0)
    used = [False] * width
    for row in rows:
        for i, cell in enumerate(row):
            if not used[i] and cell and not cell.isspace():
                used[i] = True
        if all(used):
            return rows
    return [[cell for i, cell in enumerate(row) if used[i]] for row in rows]
