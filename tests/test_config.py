from __future__ import annotations

from pathlib import Path

import pytest

from ragops import config, sources
from ragops.config import Settings, parse
from ragops.errors import ConfigError, UsageError
from ragops.templates import PARAMS
from ragops_connectors import build, connector_settings


def test_the_template_is_the_defaults() -> None:
    assert parse(PARAMS) == Settings()


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("") == Settings()
    assert parse("# nothing\n") == Settings()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\nchnk: {}\n", 2, "did you mean 'chunk'?"),
        ("chunk:\n  size: 100\n  overlpa: 3\n", 3, "did you mean 'overlap'?"),
        ("chunk:\n  size: big\n", 2, "'chunk.size' takes a whole number, not text ('big')"),
        ("chunk:\n  size: true\n", 2, "takes a whole number, not true or false"),
        ("chunk:\n  size: 2\n", 2, "at least 8 tokens"),
        ("chunk:\n  size: 20\n  overlap: 15\n", 3, "0 to half the size"),
        ("release:\n  max_delete: 2\n", 2, "a share from 0 to 1"),
        ("store:\n  url: https://me:secret@qdrant:6333/x\n", 2, "without a name and password"),
        ("store:\n  url: me:secret@qdrant:6333\n", 2, "without a name and password"),
        ("store:\n  url: embedded\n", 2, "or null for the embedded store"),
        ("store:\n  url: ''\n", 2, "such as http://localhost:6333"),
        ("chunk: 3\n", 1, "'chunk' takes keys, not a whole number"),
        ("sources: docs\n", 1, "'sources' takes a list, not text"),
        ("sources:\n  - path: x\n", 2, "a source needs a name"),
        ("sources:\n  - name: a/b\n", 2, "letters, digits"),
        ("sources:\n  - name: a\n  - name: a\n", 3, "two sources are named 'a'"),
        ("embed: {}\nembed: {}\n", 2, "stands twice"),
        ("a: [\n", 2, "not valid YAML"),
        ("chunk:\n  size: 2020-13-45\n", 2, "'2020-13-45' is no timestamp"),
        ("chunk:\n  size: !!int abc\n", 2, "'abc' is no int"),
        ("chunk: &a\n  size: [*a]\n", None, "holds itself"),
        ("a: " + "[" * 5000 + "]" * 5000, None, "nested too deep"),
        ("parse:\n  timeout: .inf\n", 2, "at most 86400"),
        ("parse:\n  memory_mb: 10000000000000000000000\n", 2, "256 to 1048576"),
        ("sources:\n  - path: a\n    include: 3\n    exclude: 3\n", 2, "a source needs a name"),
        ("embed:\n  model: ''\n", 2, "the name or the folder of a model"),
        ("- a\n", None, "expected keys"),
        ("version: 99\n", 1, "of a newer ragops"),
        ("version: one\n", 1, "'version' takes a whole number"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int | None, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in caught.value.message
    if line is not None:
        assert caught.value.message.startswith(f"params.yaml:{line}: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "url", ["http://localhost:6333", "https://x.cloud.example.org", "qdrant:6333", "[::1]:6333", "http://host/a/b?c=d"]
)
def test_addresses_of_servers(url: str) -> None:
    assert parse(f"store: {{url: '{url}'}}").store.url == url


def test_options_of_a_connector_are_as_strict() -> None:
    settings = parse("sources:\n  - name: docs\n    path: docs\n    includ: ['*.md']\n")
    source = settings.sources[0]
    with pytest.raises(ConfigError, match=r"params.yaml:4: .*did you mean 'include'"):
        config.bind(connector_settings("files"), source.options, source.where)


def test_an_unknown_connector_has_a_nearest_name() -> None:
    with pytest.raises(UsageError, match="files"):
        connector_settings("file")


# ------------------------------------------------------------------ adding a source
LAYOUTS = {
    "template": PARAMS,
    "empty": "",
    "no sources": "chunk:\n  size: 100\n",
    "one source": "sources:\n  - name: old\n    path: old\n\n# about chunks\nchunk:\n  size: 100\n",
    "not indented": "sources:\n- name: old\n  path: old\nchunk:\n  size: 100\n",
    "deep": "sources:\n    - name: old\n      path: old\n      include:\n        - '*.md'\n",
    "null": "sources: null\nchunk:\n  size: 100\n",
    "last without newline": "chunk: {size: 100}\nsources:\n  - name: old\n    path: old",
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_a_new_source_keeps_everything_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "my docs").mkdir()
    before = parse(text)
    source, after = sources.add(tmp_path, before, tmp_path / "my docs")
    assert (source.name, source.options["path"]) == ("my-docs", "my docs")
    settings = parse(after)
    assert [s.name for s in settings.sources] == [*(s.name for s in before.sources), "my-docs"]
    assert settings.chunk == before.chunk
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith("sources:")]
    assert [line for line in after.splitlines() if line in kept] == kept


@pytest.mark.parametrize(
    "name", ["2024", "2024-13-45", "1.5", "0x1f", "1e3", "null", "on", "~", "#x", "a: b", "-", "ü"]
)
def test_a_folder_keeps_its_name_in_yaml(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    source, text = sources.add(tmp_path, Settings(), tmp_path / name)
    assert [(each.name, each.options) for each in parse(text).sources] == [(source.name, source.options)]
    assert sources.match(tmp_path, parse(text), tmp_path / name) == (parse(text).sources[0], "")
    settings = config.bind(connector_settings("files"), source.options, source.where)
    assert build("files", source.name, tmp_path, settings).root == str(tmp_path / name)


def test_a_source_in_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/docs").mkdir(parents=True)
    settings = parse("sources:\n  - name: docs\n    path: ~/docs\n")
    assert sources.match(tmp_path, settings, tmp_path / "home/docs") == (settings.sources[0], "")
    with pytest.raises(UsageError, match="twice"):
        sources.add(tmp_path, settings, tmp_path / "home")


def test_what_is_not_edited_is_told(tmp_path: Path) -> None:
    for text in ("sources: [{name: a}]\n", "sources:\n  []\n", "sources: [\n]\n"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UsageError, match="a form that ragops does not edit"):
            sources.add(tmp_path, Settings(), tmp_path)


def test_rows_are_known_by_the_name_of_their_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv.gz", "c.parquet"):
        (tmp_path / name).touch()
        source, _ = sources.add(tmp_path, Settings(), tmp_path / name)
        assert source.connector == "records"


def test_a_path_within_a_source_is_a_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "docs/guide").mkdir(parents=True)
    settings = parse("sources:\n  - name: docs\n    path: docs\n")
    assert sources.match(tmp_path, settings, tmp_path / "docs") == (settings.sources[0], "")
    assert sources.match(tmp_path, settings, tmp_path / "docs/guide") == (settings.sources[0], "guide")
    with pytest.raises(UsageError, match="twice"):
        sources.add(tmp_path, settings, tmp_path)


def test_a_single_document_is_not_a_source(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(b"%PDF-")
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        sources.add(tmp_path, Settings(), file)
    with pytest.raises(UsageError, match="no such file"):
        sources.match(tmp_path, Settings(), tmp_path / "missing")
