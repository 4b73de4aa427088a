"""What is ingested, and what is done to it between two runs."""

from __future__ import annotations

import os
import random
from pathlib import Path

OLD = 1_700_000_000_000_000_000
WORDS = (
    "harbour", "copper", "signal", "lantern", "granite", "meadow", "orchard", "winter", "river", "engine", "paper",
    "window", "garden", "bridge", "silver", "train", "island", "forest", "cabinet", "letter", "market", "castle",
    "needle", "summer", "bottle", "carpet", "ladder", "mirror", "pencil", "rocket", "saddle", "tunnel",
)  # fmt: skip


def text(seed: int, sections: int) -> str:
    """Sections of some 100 words, none like another; about one chunk each."""
    random_ = random.Random(seed)
    parts = [f"# Document {seed}\n"]
    for number in range(sections):
        words = " ".join(random_.choice(WORDS) for _ in range(100))
        parts.append(f"## Section {number}\n\nThe {WORDS[(seed + number) % len(WORDS)]} of {seed}: {words}.\n")
    return "\n".join(parts)


def put(corpus: Path, name: str, data: str | bytes) -> None:
    file = corpus / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(file, ns=(OLD + len(data),) * 2)  # as if written long ago: its change token is trusted at once


def first_corpus(corpus: Path, documents: int = 56) -> None:
    for n in range(documents):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1 + n % 4))
    put(corpus, "page.html", "<title>Prices</title><h1>Prices</h1><p>Basic 10, large 30</p>")
    put(corpus, "large.html", f"<script>{'x' * (1 << 20)}</script><p>A large file with little text.</p>")  # an object
    put(corpus, "broken.pdf", b"%PDF-1.4 rubbish")


def edit_corpus(corpus: Path) -> None:
    """Edited, shortened, deleted, added, moved, copied, mended; `break_corpus` follows."""
    for n in (1, 9, 17, 25):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1 + n % 4) + text(500 + n, 2))
    for n in (3, 7):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1))
    for n in (2, 6, 10):
        (corpus / f"part{n % 4}/doc{n:02d}.md").unlink()
    for n in range(200, 222):
        put(corpus, f"new/doc{n}.md", text(n, 3))
    (corpus / "moved").mkdir()
    for n in (4, 8):
        (corpus / f"part0/doc{n:02d}.md").rename(corpus / f"moved/doc{n:02d}.md")
    put(corpus, "copy.md", text(20, 1))
    put(corpus, "broken.pdf", text(99, 1))
    put(corpus, "large.html", f"<script>{'y' * (1 << 20)}</script><p>Another large file with little text.</p>")


def break_corpus(corpus: Path) -> None:
    for n in (5, 13):
        put(corpus, f"part1/doc{n:02d}.md", b"%PDF-1.4 no longer a document")
