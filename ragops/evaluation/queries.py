"""Query sets: questions with what they should find, read from BEIR, TREC and YAML files.

What is malformed is an error that names file, line and field. What a judged collection commonly has too much of
(questions without judgements, judgements without questions, the same judgement twice) is counted and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragops import ids
from ragops.errors import UsageError
from ragops.types import Fields

SHOWN = 3  # examples in a message
MOST = 1000  # of a relevance

QUERY_IDS = ("_id", "id", "query_id", "qid", "query-id")
QUERY_TEXTS = ("text", "query", "question", "title")
JUDGED_QUERIES = ("query-id", "query_id", "qid", "query")
JUDGED_DOCUMENTS = ("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "docno", "document", "uri")
JUDGED_SCORES = ("score", "relevance", "rel")
YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Expected:
    """One judgement. `document`: a URI, a path in its source, or the id of a row, as it was written."""

    document: str
    relevance: int = 1  # 0 or less: judged, and not relevant
    quote: str | None = None  # the passage that is meant, in the document's words
    where: str = ""  # file and line, for messages


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what it should find. `meta`: the questioner's own fields, for slices."""

    id: str
    text: str
    expected: tuple[Expected, ...]
    meta: Fields = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Equal for the same question with the same judgements."""
        judged = sorted([each.document, each.relevance, each.quote or ""] for each in self.expected)
        return ids.short(ids.composite("question", [self.id, self.text, judged]))


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The questions that have judgements, by file order."""

    questions: tuple[Question, ...]
    files: tuple[str, ...]
    synthetic: bool = False  # made from the corpus itself, see `ragops eval bootstrap`
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return ids.composite("queries", [self.synthetic, *(question.digest for question in self.questions)])


def read(queries: Path, qrels: Path | None = None) -> QuerySet:
    """A query set: `queries` as YAML with its expectations, or as JSONL or TSV with judgements in `qrels`.

    Raises UsageError, which names file, line and field."""
    for file in (queries, *([qrels] if qrels else [])):
        if file.is_dir() or not file.exists():
            what = "is a folder" if file.is_dir() else "no such file"
            raise UsageError(f"{file}: {what}; a query set is a file", "Check the path.")
    if queries.suffix.lower() in YAML:
        if qrels is not None:
            raise UsageError(
                f"{queries} says itself what its questions expect, so {qrels} has no place",
                "Give either the YAML file alone, or questions as .jsonl or .tsv with qrels.",
            )
        return read_yaml(queries)
    if qrels is None:
        raise UsageError(
            f"{queries} holds questions; what they should find is missing",
            "Give the judgements, too: --qrels FILE. Or write questions and expectations into one YAML file.",
        )
    asked = read_queries(queries)
    judged, warnings = read_qrels(qrels)
    return _together(asked, judged, (str(queries), str(qrels)), warnings)


def _together(
    asked: Mapping[str, Question], judged: Mapping[str, list[Expected]], files: tuple[str, ...], warnings: list[str]
) -> QuerySet:
    unasked = [query for query in judged if query not in asked]
    if unasked:
        count = sum(len(judged[query]) for query in unasked)
        warnings.append(
            f"{count} judgements are of {_counted(len(unasked), 'question')} that {files[0]} does not have"
            f" ({_examples(unasked)}): left out"
        )
    idle = [query for query in asked if query not in judged]
    if idle:
        warnings.append(f"{_counted(len(idle), 'question')} without judgements ({_examples(idle)}): left out")
    questions = [
        Question(query.id, query.text, tuple(judged[query.id]), query.meta)
        for query in asked.values()
        if query.id in judged
    ]
    if not questions:
        raise UsageError(
            f"no question of {files[0]} ({_examples(asked)}) has a judgement in {files[-1]} ({_examples(judged)})",
            "The ids in both files must be the same.",
        )
    hopeless = [query.id for query in questions if all(each.relevance <= 0 for each in query.expected)]
    if hopeless:
        warnings.append(
            f"{_counted(len(hopeless), 'question')} with nothing relevant among the judgements ({_examples(hopeless)}):"
            " counted with 0"
        )
    return QuerySet(tuple(questions), files, warnings=tuple(warnings))


# ---------------------------------------------------------------- questions
def read_queries(file: Path) -> dict[str, Question]:
    """Questions by id, without judgements: JSONL (`_id`, `text`, as BEIR has them) or TSV (id, text).

    Raises UsageError."""
    found: dict[str, Question] = {}
    lines: dict[str, int] = {}
    for number, line in _lines(file):
        where = f"{file}:{number}"
        if line.lstrip().startswith("{"):
            question = _json_question(line, where)
        elif file.suffix.lower() in (".jsonl", ".ndjson", ".json"):
            raise UsageError(f"{where}: not a JSON object", 'One question a line: {"_id": "1", "text": "..."}')
        else:
            columns = line.split("\t")
            if not found and number == _FIRST and columns[0].strip().lower() in QUERY_IDS:
                continue  # a header
            if len(columns) < 2:
                raise UsageError(f"{where}: one column, where an id and a text are needed", "Set them apart by a tab.")
            question = _question(columns[0], columns[1], {}, where)
        if question.id in found:
            raise UsageError(
                f"{where}: the id {question.id!r} stands in line {lines[question.id]} already",
                "Give every question an id of its own.",
            )
        found[question.id], lines[question.id] = question, number
    if not found:
        raise UsageError(f"{file} holds no question", 'One a line: {"_id": "1", "text": "..."}')
    return found


_FIRST = 1


def _json_question(line: str, where: str) -> Question:
    value = _json(line, where)
    query = next((value[name] for name in QUERY_IDS if name in value), None)
    text = next((value[name] for name in QUERY_TEXTS if name in value), None)
    if query is None:
        raise UsageError(f"{where}: the field '_id' is missing", f"Known names: {', '.join(QUERY_IDS)}")
    if text is None:
        raise UsageError(f"{where}: the field 'text' is missing", f"Known names: {', '.join(QUERY_TEXTS)}")
    return _question(query, text, value.get("metadata") or value.get("meta") or {}, where)


def _question(query: Any, text: Any, meta: Any, where: str) -> Question:
    if isinstance(query, bool) or not isinstance(query, (str, int)) or not str(query).strip():
        raise UsageError(f"{where}: the field '_id' is {query!r}; it takes text that is not empty")
    if not isinstance(text, str):
        raise UsageError(f"{where}: the field 'text' is {type(text).__name__}, not text")
    if not text.strip():
        raise UsageError(f"{where}: the question {str(query)!r} is empty")
    _sound(str(query), "_id", where)
    _sound(text, "text", where)
    return Question(str(query).strip(), text.strip(), (), _meta(meta, where))


def _sound(text: str, name: str, where: str) -> None:
    """JSON and YAML can spell what is no text: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: the field '{name}' is not valid Unicode") from error


def _meta(value: Any, where: str) -> Fields:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: the field 'meta' is {type(value).__name__}; it takes keys")
    found = {}
    for name, item in value.items():
        each = item if isinstance(item, list) else [item]
        if all(isinstance(one, (str, int, float, bool)) for one in each):
            found[str(name)] = item
    return found


# ---------------------------------------------------------------- judgements
def read_qrels(file: Path) -> tuple[dict[str, list[Expected]], list[str]]:
    """Judgements by question, and what is to be told: BEIR (a header `query-id corpus-id score`, tabs) or TREC (four
    columns: query, iteration, document, relevance). Raises UsageError."""
    found: dict[str, dict[str, Expected]] = {}
    twice: list[str] = []
    columns: tuple[int, int, int] | None = None
    for number, line in _lines(file):
        where = f"{file}:{number}"
        fields = _split(line)
        if columns is None:
            columns, header = _columns(fields, where)
            if header:
                continue
        if len(fields) <= max(columns):
            raise UsageError(
                f"{where}: {_counted(len(fields), 'column')}, where {max(columns) + 1} are needed",
                "BEIR: query-id, corpus-id, score, set apart by tabs. TREC: query 0 document relevance.",
            )
        query, document = fields[columns[0]].strip(), fields[columns[1]].strip()
        for name, value in (("query-id", query), ("corpus-id", document)):
            if not value:
                raise UsageError(f"{where}: the field '{name}' is empty")
        relevance = _relevance(fields[columns[2]], "score", where)
        judged = found.setdefault(query, {})
        if (before := judged.get(document)) is not None:
            if before.relevance != relevance:
                raise UsageError(
                    f"{where}: {document!r} is judged {relevance} for question {query!r},"
                    f" and {before.relevance} in line {before.where.rpartition(':')[2]}",
                    "Keep one of the two.",
                )
            twice.append(f"line {number}")
            continue
        judged[document] = Expected(document, relevance, where=where)
    if not found:
        raise UsageError(f"{file} holds no judgement", "BEIR: a header line query-id, corpus-id, score, and rows.")
    warnings = []
    if twice:
        warnings.append(f"{file}: {_counted(len(twice), 'judgement')} said twice ({_examples(twice)}): counted once")
    return {query: list(judged.values()) for query, judged in found.items()}, warnings


def _split(line: str) -> list[str]:
    """By tabs, else (TREC) by white space: a path may hold blanks, so no more than the four columns."""
    return line.split("\t") if "\t" in line else _by_blanks(line)


def _by_blanks(line: str) -> list[str]:
    parts = line.split()
    if len(parts) <= 4:
        return parts
    return [parts[0], parts[1], " ".join(parts[2:-1]), parts[-1]]


def _columns(fields: list[str], where: str) -> tuple[tuple[int, int, int], bool]:
    """Places of query, document and score, and whether the line is a header."""
    names = [each.strip().lower() for each in fields]
    places = [
        next((i for i, name in enumerate(names) if name in known), None)
        for known in (JUDGED_QUERIES, JUDGED_DOCUMENTS, JUDGED_SCORES)
    ]
    query, document, score = places
    if query is not None and document is not None and score is not None:
        return (query, document, score), True
    if sum(place is not None for place in places) >= 2:
        lacking = next(name for name, at in zip(("query-id", "corpus-id", "score"), places, strict=True) if at is None)
        raise UsageError(f"{where}: the header has no column '{lacking}'", "BEIR: query-id, corpus-id, score.")
    if len(fields) == 4:
        return (0, 2, 3), False
    if len(fields) == 3 and re.fullmatch(r"-?\d+", names[2]):
        return (0, 1, 2), False
    raise UsageError(
        f"{where}: {_counted(len(fields), 'column')}; these are neither BEIR's judgements nor TREC's",
        "BEIR: a header query-id, corpus-id, score, set apart by tabs. TREC: query 0 document relevance.",
    )


def _relevance(value: Any, name: str, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,9}(\.0+)?", text):
        raise UsageError(
            f"{where}: the field '{name}' is {value!r}; it takes a whole number",
            "0: judged and not relevant, 1 and more: the higher, the better.",
        )
    found = int(text.partition(".")[0])
    if abs(found) > MOST:
        raise UsageError(f"{where}: the field '{name}' is {found}; it takes {-MOST} to {MOST}")
    return found


# ---------------------------------------------------------------- YAML
EXAMPLE = """\
Write:
questions:
  - text: How long are invoices kept?
    expect: [handbook:/finance/invoices.md]"""


def read_yaml(file: Path) -> QuerySet:
    """Questions with expected documents, or passages of them by a quote. Raises UsageError."""
    from ragops.config import read_yaml as lined

    value, where = lined(_text(file), str(file))
    if not isinstance(value, Mapping) or "questions" not in value:
        raise UsageError(f"{file}: the key 'questions' is missing", EXAMPLE)
    _known(value, ("questions", "synthetic", "about"), str(where))
    listed = value["questions"]
    if not isinstance(listed, list):
        raise UsageError(f"{where.at('questions')}: 'questions' takes a list", EXAMPLE)
    questions: dict[str, Question] = {}
    warnings: list[str] = []
    for i, item in enumerate(listed):
        here = where.at("questions").at(i)
        if not isinstance(item, Mapping):
            raise UsageError(f"{here}: a question takes keys (text, expect)", EXAMPLE)
        _known(item, ("id", "text", "question", "expect", "meta"), str(here))
        text = item.get("text", item.get("question"))
        if text is None:
            raise UsageError(f"{here}: the key 'text' is missing", EXAMPLE)
        own = item.get("id", ids.short(ids.sha256_text(str(text))))
        asked = _question(own, text, item.get("meta") or {}, str(here))
        if asked.id in questions:
            what = f"the id {asked.id!r}" if "id" in item else "the question"
            raise UsageError(f"{here}: {what} stands twice", "Give every question an id of its own.")
        expected = item.get("expect")
        if isinstance(expected, (str, Mapping)):
            expected = [expected]
        if not isinstance(expected, list) or not expected:
            raise UsageError(f"{here}: the key 'expect' takes documents that answer the question", EXAMPLE)
        found: dict[tuple[str, str | None], Expected] = {}
        for j, each in enumerate(expected):
            one = _expected(each, str(here.at("expect").at(j)))
            key = (one.document, one.quote)
            if key in found and found[key].relevance != one.relevance:
                raise UsageError(f"{one.where}: {one.document!r} is expected twice, and not with one relevance")
            found[key] = one
        questions[asked.id] = Question(asked.id, asked.text, tuple(found.values()), asked.meta)
    if not questions:
        raise UsageError(f"{file} holds no question", EXAMPLE)
    synthetic = value.get("synthetic", False)
    if not isinstance(synthetic, bool):
        raise UsageError(f"{where.at('synthetic')}: 'synthetic' is true or false, not {synthetic!r}")
    return QuerySet(tuple(questions.values()), (str(file),), synthetic, tuple(warnings))


def _expected(value: Any, where: str) -> Expected:
    if isinstance(value, Mapping):
        _known(value, ("document", "quote", "relevance"), where)
        document, quote = value.get("document"), value.get("quote")
        relevance = _relevance(value.get("relevance", 1), "relevance", where)
    else:
        document, quote, relevance = value, None, 1
    if isinstance(document, bool) or not isinstance(document, (str, int)) or not str(document).strip():
        raise UsageError(f"{where}: the field 'document' is {document!r}; it takes a URI, a path or an id")
    if quote is not None and (not isinstance(quote, str) or not quote.strip()):
        raise UsageError(f"{where}: the field 'quote' is {quote!r}; it takes words of the document")
    _sound(str(document), "document", where)
    _sound(quote or "", "quote", where)
    return Expected(str(document).strip(), relevance, quote, where)


def _known(value: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    from ragops.config import nearest

    for key in value:
        if key not in names:
            raise UsageError(f"{where}: unknown key '{key}'{nearest(key, list(names))}", f"Known: {', '.join(names)}")


# ---------------------------------------------------------------- files
def _text(file: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, with any line ends."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}", "Check the path.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: not UTF-8", "Save the file as UTF-8.") from error
    if "\0" in text:
        raise UsageError(f"{file}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a zero byte: this is no text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. U+2028 and the like end no line."""
    return ((number, line) for number, line in enumerate(_text(file).split("\n"), 1) if line.strip())


def _json(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}", 'One question a line: {"_id": "1", "text": "..."}') from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: not a JSON object", 'One question a line: {"_id": "1", "text": "..."}')
    return value


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _examples(names: Iterable[str]) -> str:
    some = list(names)
    return ", ".join(some[:SHOWN]) + (", ..." if len(some) > SHOWN else "")
