"""params.yaml to frozen settings, strictly: an unknown or mistyped key is an error with the nearest name and the line.

Only the edge (workspace, command line) reads configuration; everything below takes plain values.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ragops.errors import UPGRADE, ConfigError
from ragops.types import Mode

FILE = "params.yaml"
VERSION = 1
EMBEDDED = "embedded"  # names the store in the workspace, where a server's address could stand
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ParseSettings:
    workers: int = 0  # parser processes; 0: one per core, at most 8
    timeout: float = 60.0  # seconds of CPU for one file
    memory_mb: int = 2048  # memory for one file


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    size: int | None = None  # tokens of text in a chunk, at most; null: 160, or what the model's window leaves
    overlap: int = 0  # tokens that a chunk repeats of the one before


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    model: str = "all-MiniLM-L6-v2"  # name, path, or hash:<dim> (deterministic, for tests)
    sha256: str | None = None  # pin of the weights; another file is refused
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps


@dataclass(frozen=True, slots=True)
class StoreSettings:
    url: str | None = None  # a Qdrant server; null: embedded in the workspace. What follows the name is the server's
    collection: str = "main"
    layout: Literal["in_place", "collection_per_release"] = "in_place"  # releases share a collection, or have their own
    api_key: str = "env:QDRANT_API_KEY"  # the environment variable that holds the key
    grpc: bool = False  # instead of REST
    timeout: float = 60.0  # seconds for one request
    quantization: Literal["int8", "binary", "none"] = "int8"
    on_disk: bool = False  # vectors and payloads are not kept in memory
    shards: int | None = None  # these three: null is what the server says
    replicas: int | None = None
    write_consistency: int | None = None  # replicas that must have a write before it counts


@dataclass(frozen=True, slots=True)
class GateSettings:
    queries: str | None = None  # a query set; null, and `mode`: what `evaluate` says
    qrels: str | None = None
    mode: Mode | None = None
    metric: str = "nDCG@10"
    margin: float = 0.01  # a loss against the live release up to here is let through
    min: float | None = None  # a release below is held back, whatever the live one has


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    keep: int = 5  # releases kept beside the live one
    max_delete: float = 0.2  # a larger share of deleted documents needs consent
    gate: GateSettings | None = None  # what a release must show before it is published


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    queries: str | None = None  # the query set of the stage `evaluate`, and of the gate; relative to the workspace
    qrels: str | None = None  # its judgements, where they are a file of their own
    mode: Mode = "hybrid"
    rerank: str | None = None  # a cross-encoder that orders the best anew: folder or hub name


@dataclass(frozen=True, slots=True)
class SearchSettings:
    k: int = 10
    mode: Mode = "hybrid"  # by vectors (dense), by words (bm25), or by both
    rerank: str | None = None  # a cross-encoder that orders the best anew: folder or hub name


@dataclass(frozen=True, slots=True)
class ServeSettings:
    limits: str = "memory"  # where rates are counted: memory (one worker), redis://..., or env:NAME that holds one
    rate: str = "600/minute"  # of a key without its own, per second, minute, hour or day; a batch of n counts n
    max_k: int = 100
    max_offset: int = 1000
    max_batch: int = 64  # queries in one request
    max_text: int = 4000  # characters of a query
    max_body_kb: int = 256
    concurrency: int = 64  # requests at once in one worker; more are told to come again
    timeout: float = 30.0  # seconds for one request
    batch_ms: float = 0.0  # how long a query waits for others, to be embedded together; 0: only while the model is busy
    rerank: tuple[str, ...] = ()  # cross-encoders that may be asked for


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a configuration file: for messages."""

    file: str
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    path: tuple[str, ...] = ()

    def at(self, key: str | int) -> Where:
        return Where(self.file, self.lines, (*self.path, str(key)))

    def __str__(self) -> str:
        line = self.lines.get(self.path)
        return f"{self.file}:{line}" if line else self.file


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One entry of `sources`; `options` are the connector's own and are bound to its settings later."""

    name: str
    connector: str
    options: Mapping[str, Any]
    where: Where
    keep_bytes: bool = True  # in the snapshot; `snapshot: manifest` for a source that is versioned itself


@dataclass(frozen=True, slots=True)
class Settings:
    version: int = VERSION
    sources: tuple[SourceSettings, ...] = ()
    parse: ParseSettings = field(default_factory=ParseSettings)
    chunk: ChunkSettings = field(default_factory=ChunkSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)


def load(file: Path) -> Settings:
    """Read and check params.yaml. Raises ConfigError."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    return parse(text, file.name)


@functools.lru_cache(maxsize=4)  # an ingest looks again once it has the lock
def parse(text: str, name: str = FILE) -> Settings:
    """The settings in the text of params.yaml. Raises ConfigError."""
    value, where = read_yaml(text, name)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys such as 'sources:', found {_kind(value)}")
    found = value.get("version", VERSION)
    if isinstance(found, int) and found > VERSION:
        raise ConfigError(
            f"{where.at('version')}: this workspace is of a newer ragops (version {found}; this one knows {VERSION})",
            UPGRADE,
        )
    sources = _sources(value.pop("sources", None), where.at("sources"))
    settings = bind(Settings, value, where, also=("sources",))
    check_ranges(settings, where)
    return dataclasses.replace(settings, sources=sources)


def version(text: str) -> int:
    """Which version of params.yaml a text says it is, whatever is wrong with the rest. Raises ConfigError."""
    value, _ = read_yaml(text, FILE)
    found = value.get("version", VERSION) if isinstance(value, dict) else VERSION
    return found if isinstance(found, int) else VERSION


def bind(cls: type[T], value: Any, where: Where, also: tuple[str, ...] = ()) -> T:
    """A mapping to the frozen dataclass `cls` by its annotations: str, int, float, bool, None, lists, tuples,
    dicts and nested dataclasses. Raises ConfigError that names the line, the key and the nearest valid key."""
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: '{where.path[-1] if where.path else cls.__name__}' takes keys, not {_kind(value)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key not in fields:
            valid = sorted({*fields, *also})
            raise ConfigError(
                f"{where.at(key)}: unknown key '{'.'.join((*where.path, str(key)))}'{nearest(str(key), valid)}",
                f"Valid keys here: {', '.join(valid)}",
            )
        found[key] = _convert(hints[key], item, where.at(key))
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in found:
            raise ConfigError(f"{where}: the key '{'.'.join((*where.path, name))}' is missing")
    return cls(**found)


def nearest(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def _convert(hint: Any, value: Any, where: Where) -> Any:
    origin = typing.get_origin(hint)
    name = ".".join(where.path)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return bind(typing.cast(type[Any], hint), value, where)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise ConfigError(
                f"{where}: '{name}' takes a list, not {_kind(value)}", f"Write: {where.path[-1]}: [{value}]"
            )
        inner = typing.get_args(hint)[0]
        items = [_convert(inner, item, where.at(i)) for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: '{name}' takes keys, not {_kind(value)}")
        inner = typing.get_args(hint)[1]
        return {str(k): _convert(inner, v, where.at(k)) for k, v in value.items()}
    if origin is typing.Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise ConfigError(f"{where}: '{name}' is {value!r}; it takes one of {', '.join(map(str, options))}")
        return value
    if hint is typing.Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: '{name}' takes {_KINDS.get(hint, hint.__name__)}, not {_kind(value)} ({value!r})")
    return value


def _sources(value: Any, where: Where) -> tuple[SourceSettings, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigError(
            f"{where}: 'sources' takes a list, not {_kind(value)}", "Write:\nsources:\n  - name: docs\n    path: docs"
        )
    found: dict[str, SourceSettings] = {}
    for i, item in enumerate(value):
        here = where.at(i)
        if not isinstance(item, dict):
            raise ConfigError(f"{here}: a source takes keys (name, connector, ...), not {_kind(item)}")
        options = dict(item)
        name, connector = options.pop("name", None), options.pop("connector", "files")
        snapshot = options.pop("snapshot", "bytes")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            place = here.at("name") if name else here
            raise ConfigError(f"{place}: a source needs a name of letters, digits, '-', '_' and '.', not {name!r}")
        if not isinstance(connector, str):
            raise ConfigError(f"{here.at('connector')}: 'connector' takes text, not {_kind(connector)}")
        if snapshot not in ("bytes", "manifest"):
            raise ConfigError(f"{here.at('snapshot')}: 'snapshot' is bytes or manifest, not {snapshot!r}")
        if name in found:
            raise ConfigError(f"{here.at('name')}: two sources are named '{name}'; names must differ")
        found[name] = SourceSettings(name, connector, options, here, snapshot == "bytes")
    return tuple(found.values())


def is_address(text: str) -> bool:
    """Whether it names a server by a scheme, a port, or both, and nothing secret."""
    return re.fullmatch(r"(https?://[^\s/@]+|([^\s/@:]+|\[[0-9A-Fa-f:]+\]):[0-9]+)(/.*)?", text) is not None


RATE = "60/minute: a number per second, minute, hour or day"
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def parse_rate(text: str) -> tuple[int, int] | None:
    """ "60/minute" -> 60 in 60 seconds; None for what is no rate."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(second|minute|hour|day)", text)
    return (int(match[1]), _SECONDS[match[2]]) if match else None


#: A measure that says how good results are, as an evaluation names it.
METRIC = re.compile(r"(?:nDCG|Recall|MRR)@(?:[1-9][0-9]{0,2}|1000)|MAP")


def check_ranges(settings: Settings, where: Where) -> None:
    """Raises ConfigError for a value that is of the right type and cannot be."""
    serve = settings.serve
    gate = settings.release.gate or GateSettings(queries="")
    queries = settings.evaluate.queries if gate.queries is None else gate.queries
    checks = [
        (("parse", "workers"), 0 <= settings.parse.workers <= 256, "0 to 256"),
        (("parse", "timeout"), 0 < settings.parse.timeout <= 86_400, "more than 0 seconds, and at most 86400"),
        (("parse", "memory_mb"), 256 <= settings.parse.memory_mb <= 1 << 20, "256 to 1048576"),
        (("chunk", "size"), (settings.chunk.size or 8) >= 8, "at least 8 tokens"),
        (("chunk", "overlap"), 0 <= settings.chunk.overlap <= (settings.chunk.size or 512) // 2, "0 to half the size"),
        (("embed", "model"), bool(settings.embed.model.strip()), "the name or the folder of a model"),
        (("release", "keep"), settings.release.keep >= 1, "at least 1"),
        (("release", "max_delete"), 0 <= settings.release.max_delete <= 1, "a share from 0 to 1"),
        (("release", "gate"), queries is not None,
         "the key 'queries' (or evaluate.queries): a file of questions to ask"),
        (("release", "gate", "metric"), METRIC.fullmatch(gate.metric) is not None,
         "a measure: nDCG@k, Recall@k, MRR@k (k from 1 to 1000) or MAP"),
        (("release", "gate", "margin"), 0 <= gate.margin <= 1, "a number from 0 to 1"),
        (("release", "gate", "min"), 0 <= (gate.min or 0) <= 1, "a number from 0 to 1"),
        (("search", "k"), 1 <= settings.search.k <= 10_000, "1 to 10000"),
        (("store", "url"), settings.store.url is None or is_address(settings.store.url),
         "a server's address such as http://localhost:6333, without a name and password (a key comes from the"
         " environment, see store.api_key), or null for the embedded store"),
        (("store", "collection"), bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", settings.store.collection)),
         "letters, digits, '-' and '_'"),
        (("store", "collection"), settings.store.url is None or "--" not in settings.store.collection,
         "no '--' on a server"),
        (("store", "api_key"), bool(re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", settings.store.api_key)),
         "the name of an environment variable, such as env:QDRANT_API_KEY: keys do not belong into this file"),
        (("store", "timeout"), 1 <= settings.store.timeout <= 3600, "1 to 3600 seconds"),
        *((("store", name), value is None or 1 <= value <= most, f"1 to {most}") for name, value, most in (
            ("shards", settings.store.shards, 1024), ("replicas", settings.store.replicas, 64),
            ("write_consistency", settings.store.write_consistency, 64))),
        (("store", "write_consistency"),
         (settings.store.write_consistency or 1) <= (settings.store.replicas or 64), "at most store.replicas"),
        (("serve", "limits"),
         bool(re.fullmatch(r"memory|env:[A-Za-z_][A-Za-z0-9_]*|rediss?://[^\s@]+", serve.limits)),
         "memory, redis://host:port/0 without a password, or env:NAME: a variable that holds such an address"),
        (("serve", "rate"), parse_rate(serve.rate) is not None, RATE),
        *((("serve", name), 1 <= value <= most, f"1 to {most}") for name, value, most in (
            ("max_k", serve.max_k, 10_000), ("max_batch", serve.max_batch, 1000),
            ("max_text", serve.max_text, 1_000_000), ("max_body_kb", serve.max_body_kb, 65_536),
            ("concurrency", serve.concurrency, 10_000))),
        (("serve", "max_offset"), 0 <= serve.max_offset <= 10_000, "0 to 10000"),
        (("serve", "timeout"), 0.1 <= serve.timeout <= 3600, "0.1 to 3600 seconds"),
        (("serve", "batch_ms"), 0 <= serve.batch_ms <= 100, "0 to 100 milliseconds"),
    ]  # fmt: skip
    for path, good, want in checks:
        if not good:
            raise ConfigError(f"{functools.reduce(Where.at, path, where)}: '{'.'.join(path)}' takes {want}")


def read_yaml(text: str, name: str) -> tuple[Any, Where]:
    """The plain value in a YAML text, and the lines of its keys and items. Raises ConfigError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    lines: dict[tuple[str, ...], int] = {}

    def plain(node: Any) -> Any:
        try:
            return loader.construct_object(node)
        except (ValueError, AttributeError) as error:  # a 13th month; what the loader's own patterns let through
            said = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            raise ConfigError(
                f"{name}:{node.start_mark.line + 1}: {said}", "Put it in quotes if it is text."
            ) from error

    def build(node: Any, path: tuple[str, ...]) -> Any:
        lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(plain(key_node))
                if key in found:
                    raise ConfigError(f"{name}:{key_node.start_mark.line + 1}: the key '{key}' stands twice")
                found[key] = build(value_node, (*path, key))
                lines[(*path, key)] = key_node.start_mark.line + 1
            return found
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return plain(node)

    try:
        node = loader.get_single_node()
        value = build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deep, or holds itself by an alias") from None
    finally:
        loader.dispose()
    lines.pop((), None)
    return value, Where(name, lines)


_KINDS: Mapping[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: Any) -> str:
    names = {dict: "keys", list: "a list", type(None): "nothing"}
    return names.get(type(value)) or _KINDS.get(type(value), type(value).__name__)
