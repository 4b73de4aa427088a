"""What an evaluation found, and where it is kept: one file each, named by its content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ragops import durable, ids
from ragops.errors import SchemaError, UsageError

SCHEMA = 1
FOLDER = "evaluations"  # below .ragops
KIND = "ragops evaluation"
SHORTEST = 6  # characters that name an id
SYNTHETIC = "the questions are synthetic, made from the corpus itself: they compare releases, and measure no real use"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question got. `found`: the first ten documents (or passages) of the result."""

    id: str
    text: str
    digest: str  # of the question with its judgements
    metrics: Mapping[str, float]
    found: Sequence[str] = ()
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of one release for one query set, as means over its questions, and each question's own."""

    metrics: Mapping[str, float]
    queries: int
    release: int | None
    fingerprint: str  # of the release's dataset
    mode: str
    model: str
    space: str
    rerank: str | None
    exact: bool
    questions: str  # digest of the query set
    files: Sequence[str]
    synthetic: bool
    latency: Mapping[str, float]  # milliseconds: p50, p99
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]]  # field -> value -> queries and metrics
    warnings: Sequence[str]
    answers: Sequence[Answer]
    created: str  # ISO 8601, UTC

    @property
    def id(self) -> str:
        """By content: equal for equal results of the same release, whenever they were had."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("latency", "created", "files")}
        return ids.short(ids.composite("evaluation", _plain(kept)))

    def as_dict(self) -> dict[str, Any]:
        """Without the single questions."""
        value = asdict(self)
        del value["answers"]
        return {"id": self.id} | value

    def values(self, metric: str) -> list[float]:
        return [answer.metrics[metric] for answer in self.answers]


def _plain(value: Any) -> Any:
    """Floats as text: how a number is written must not make an id."""
    if isinstance(value, float):
        return repr(round(value, 12))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def save(folder: Path, evaluation: Evaluation) -> Path:
    """Keep it as `<id>.json`; an equal one is replaced by the newer. Returns the file."""
    durable.make_folder(folder)
    file = folder / f"{evaluation.id}.json"
    value = {"kind": KIND, "schema": SCHEMA, "id": evaluation.id} | asdict(evaluation)
    durable.write_atomic(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    return file


def load(file: Path) -> Evaluation:
    """Raises UsageError for what is no evaluation, SchemaError for one of a newer ragops."""
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}", _MAKE) from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(f"{file} is no evaluation", _MAKE)
    if value.get("schema", 0) > SCHEMA:
        raise SchemaError.newer(file, value["schema"], SCHEMA)
    try:
        found = {each.name: value[each.name] for each in fields(Evaluation) if each.name != "answers"}
        answers = [Answer(**{each.name: one[each.name] for each in fields(Answer)}) for one in value["answers"]]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file} is damaged: {error!r}", _MAKE) from error
    return Evaluation(answers=answers, **found)


_MAKE = "Make one: ragops eval run --queries FILE --qrels FILE"


def kept(folder: Path, beginning: str = "") -> list[Evaluation]:
    """Those in a folder that can be read, or whose ids begin so, oldest first."""
    found = []
    for file in sorted(folder.glob(f"{beginning}*.json")) if folder.is_dir() else []:
        try:
            found.append(load(file))
        except (UsageError, SchemaError):  # who names it is told
            continue
    return sorted(found, key=lambda evaluation: (evaluation.created, evaluation.id))


def pair(folder: Path, a: str, b: str) -> tuple[Evaluation, Evaluation]:
    """The two evaluations that `a` and `b` name: a file, an id or its beginning, or the number of a release.

    Of a release the newest is taken that has the other's questions and mode. Raises UsageError.
    """
    left, right = _named(folder, a), _named(folder, b)
    pairs = [(one, other) for one in left for other in right if _alike(one, other)]
    if pairs:
        return max(pairs, key=lambda both: (_same_mode(*both), both[0].created, both[1].created))
    if len(left) == len(right) == 1:
        return left[0], right[0]  # whoever names both may compare them; `compare` says what they lack
    raise UsageError(
        f"no evaluations of {a} and {b} have questions in common",
        "Ask both the same: ragops eval run --queries FILE --qrels FILE --release N",
    )


def _is_file(name: str) -> bool:
    return "/" in name or name.endswith(".json")


def _named(folder: Path, name: str) -> list[Evaluation]:
    if _is_file(name):
        return [load(Path(name))]
    if re.fullmatch(r"[0-9]{1,9}", name):
        of_release = [each for each in kept(folder) if each.release == int(name)]
        if of_release:
            return of_release
        if len(name) < SHORTEST:
            raise UsageError(
                f"release {name} has no evaluation in {folder}",
                f"Make one: ragops eval run --queries FILE --qrels FILE --release {name}",
            )
    found = kept(folder, name.lower()) if re.fullmatch(f"[0-9A-Fa-f]{{{SHORTEST},}}", name) else []
    if len(found) == 1:
        return found
    known = ", ".join(each.id for each in kept(folder)[-5:]) or "none"
    raise UsageError(
        f"{len(found) or 'no'} evaluations with the id {name!r} in {folder}",
        f"The newest: {known}. Or give {SHORTEST} characters at least, the number of a release, or a file.",
    )


def _alike(one: Evaluation, other: Evaluation) -> bool:
    return bool({answer.digest for answer in one.answers} & {answer.digest for answer in other.answers})


def _same_mode(one: Evaluation, other: Evaluation) -> bool:
    return (one.mode, one.rerank, one.exact) == (other.mode, other.rerank, other.exact)
