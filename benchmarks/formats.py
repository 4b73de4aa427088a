"""What becomes of 132 real test files of parser projects, some of them broken, encrypted or without text.

    python benchmarks/formats.py [--data FOLDER] [--out FILE] [--workers N] [--speed]

Every file goes through the connectors' sniffing and the pool of workers, as at ingest. The manifest's column `expect`
says what has to come: text, quarantine (a refusal with its reason), or either. For files with an expected Markdown the
word recall is told: the share of its words (a multiset, NFKC, lower case, without Markdown's own marks, link targets
and comments) that our text holds. An expected file that several manifest rows share can belong to one of them only;
such rows are marked and the median is told with and without them.
`--speed` compares CPU seconds with unstructured on the same HTML and Markdown files, taking turns file by file.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import re
import resource
import statistics
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ragops.errors import ParseError
from ragops.types import Parsed
from ragops_connectors.media import sniff
from ragops_pipelines import parsers
from ragops_pipelines.parse import Limits, ParserPool, assemble, language_model
from ragops_pipelines.parsers import general

TEMP = Path(tempfile.gettempdir()) / "ragops-data"
PACKAGES = ("unstructured", "kreuzberg", "pypdfium2", "lxml", "markdown-it-py", "pypandoc-binary", "charset-normalizer")
#: The refusals that fit a tag of the manifest.
REASONS = {
    "empty": {"empty"},
    "encrypted": {"encrypted"},
    "unsupported": {"unsupported"},
    "binary": {"unsupported"},
    "archive": {"unsupported"},
    "image": {"unsupported", "missing_tool"},
    "scanned": {"empty"},
    "no_text": {"empty"},
    "corrupt": {"damaged"},
    "malformed": {"damaged"},
}


@dataclass
class Row:
    file: str
    tags: list[str]
    expect: str
    media_type: str
    parser: str = ""
    characters: int = 0
    code: str = ""
    reason: str = ""
    recall: float | None = None
    shared_reference: bool = False

    @property
    def right(self) -> bool:
        if not self.code:
            return self.expect != "quarantine" and self.characters > 0
        fitting = set().union(*(REASONS.get(tag, set()) for tag in self.tags)) if self.tags else set()
        return self.expect != "text" and (self.code in fitting or (self.expect != "quarantine" and not fitting))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--data", type=Path, default=TEMP, help="the unpacked data folder")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "formats.json")
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--speed", action="store_true", help="compare with unstructured on HTML and Markdown")
    given = arguments.parse_args()
    folder = given.data / "formats"
    result: dict[str, Any] = {
        "what": "132 real files in 31 formats: what becomes of them, and word recall against expected Markdown",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "language_model": language_model(),
    }
    result |= outcomes(folder, given.workers)
    if given.speed:
        result["speed"] = {kind: speed(given.data, kind) for kind in ("html", "md")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


# ---------------------------------------------------------------- what comes of each file
def outcomes(folder: Path, workers: int) -> dict[str, Any]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        manifest = list(csv.DictReader(file))
    references = {
        row["file"]: (folder / row["groundtruth"]).read_text("utf-8") for row in manifest if row["groundtruth"]
    }
    owners = Counter(references.values())
    rows: dict[str, Row] = {}

    def items() -> Iterator[tuple[dict[str, str], bytes, str, str | None]]:
        for entry in manifest:
            data = (folder / "files" / entry["file"]).read_bytes()
            yield entry, data, *sniff(entry["file"], data)

    began, cpu = time.perf_counter(), _children_cpu()
    with ParserPool(workers, Limits()) as pool:
        for entry, outcome in pool.parse_many(items()):
            name = entry["file"]
            data = (folder / "files" / name).read_bytes()
            row = Row(name, [tag for tag in entry["tags"].split(",") if tag], entry["expect"], sniff(name, data)[0])
            if isinstance(outcome, Parsed):
                row.parser, row.characters = outcome.parser, len(outcome.text)
                if name in references:
                    row.recall = recall(outcome.text, references[name])
                    # Named alike but for the ending: the expected text of `test.pdf` stands for `test.docx` as well.
                    row.shared_reference = owners[references[name]] > 1 and not name.endswith(".pdf")
            else:
                row.code, row.reason = outcome.code, outcome.message
            rows[name] = row
    seconds, cpu = time.perf_counter() - began, _children_cpu() - cpu
    ordered = [rows[entry["file"]] for entry in manifest]
    _print(ordered)
    recalls = [row.recall for row in ordered if row.recall is not None]
    own = [row.recall for row in ordered if row.recall is not None and not row.shared_reference]
    wrong = [row.file for row in ordered if not row.right]
    print(f"\n{len(ordered)} files, {len(ordered) - len(wrong)} as expected, wrong: {', '.join(wrong) or 'none'}")
    print(f"word recall: median {statistics.median(recalls):.3f} of {len(recalls)} expected files; ", end="")
    print(f"{statistics.median(own):.3f}, lowest {min(own):.3f}, of the {len(own)} that are the file's own")
    print(f"{seconds:.1f} s on the clock with {workers} workers, {cpu:.1f} s of their CPU; model: {language_model()}")
    return {
        "files": len(ordered),
        "as_expected": len(ordered) - len(wrong),
        "wrong": wrong,
        "recall_median": round(statistics.median(recalls), 4),
        "recall_median_own_references": round(statistics.median(own), 4),
        "recall_lowest_own_references": round(min(own), 4),
        "own_references": len(own),
        "workers_cpu_seconds": round(cpu, 2),
        "rows": [
            {
                "file": row.file,
                "expect": row.expect,
                "media_type": row.media_type,
                **({"code": row.code, "reason": row.reason} if row.code else {"parser": row.parser}),
                "characters": row.characters,
                **({"recall": round(row.recall, 4)} if row.recall is not None else {}),
                **({"reference": "another file's"} if row.shared_reference else {}),
            }
            for row in ordered
        ],
    }


def recall(text: str, reference: str) -> float:
    expected, found = words(bare(reference)), words(text)
    total = sum(expected.values())
    return sum((expected & found).values()) / total if total else 1.0


def bare(markdown: str) -> str:
    """Without comments and link targets, which are no words of the document."""
    markdown = re.sub(r"<!--.*?-->", " ", markdown, flags=re.S)
    return re.sub(r"\]\([^()\s]*\)", "]", markdown)


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower()))


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _print(rows: list[Row]) -> None:
    print(f"{'file':58} {'expected':18} {'got':22} {'characters':>10} {'recall':>7}")
    for row in rows:
        got = row.code or f"text ({row.parser})"
        score = f"{row.recall:.3f}" if row.recall is not None else ""
        note = " another file's reference" if row.shared_reference else "" if row.right else " WRONG"
        print(f"{row.file[:58]:58} {row.expect:18} {got:22} {row.characters:10,} {score:>7}{note}")


# ---------------------------------------------------------------- speed beside unstructured
def speed(folder: Path, kind: str) -> dict[str, Any]:
    """CPU seconds of both over the same files, one after the other, file by file, three rounds; the best of each."""
    files = sorted((folder / "formats" / "files").glob(f"*.{kind}"))
    if kind == "md":
        files += sorted((folder / "docs" / "A").rglob("*.md"))[:40]
    work = [(file, data, *sniff(file.name, data)) for file in files if (data := file.read_bytes())]
    general.prepare()
    ours = theirs = 0.0
    ours_words: Counter[str] = Counter()
    theirs_words: Counter[str] = Counter()
    size = compared = 0
    for _, data, media_type, encoding in work:
        best = [float("inf"), float("inf")]
        texts = ["", ""]
        for _round in range(3):
            for which in (0, 1):
                started = time.process_time()
                try:
                    if which == 0:
                        output = parsers.find(media_type).parse(data, media_type, encoding)
                    else:
                        output = general.parse(data, media_type, encoding)
                    # Front matter is metadata for us and text for unstructured.
                    texts[which] = f"{assemble(output, '').text}\n{dict(output.fields)}"
                except ParseError:
                    texts[which] = ""
                best[which] = min(best[which], time.process_time() - started)
        if len(texts[1]) < 4:
            continue  # it gives nothing for this one, which would flatter it
        compared += 1
        size += len(data)
        ours, theirs = ours + best[0], theirs + best[1]
        ours_words += words(texts[0])
        theirs_words += words(texts[1])
    if not compared:
        print(f"{kind}: unstructured reads none of the {len(work)} files; it lacks its extra for them")
        return {"files": 0, "of": len(work)}
    kept = sum((ours_words & theirs_words).values()) / sum(theirs_words.values())
    print(f"{kind}: {compared} of {len(work)} files that unstructured reads, {size / 1e6:.1f} MB: ", end="")
    print(f"ours {ours:.3f} CPU s, unstructured {theirs:.3f}, ratio {theirs / ours:.1f}; words kept {kept:.4f}")
    return {
        "files": compared,
        "of": len(work),
        "bytes": size,
        "cpu_seconds": round(ours, 4),
        "unstructured_cpu_seconds": round(theirs, 4),
        "ratio": round(theirs / ours, 2),
        "words_of_unstructured_that_we_have": round(kept, 4),
    }


if __name__ == "__main__":
    main()
