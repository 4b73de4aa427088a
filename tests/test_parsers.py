"""Each format's text and structure, and what its broken files come to. Parsers run in this process here."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines import parsers
from ragops_pipelines.parse import assemble
from ragops_pipelines.parsers import general, rows
from ragops_pipelines.parsers.archive import check_unpacked
from ragops_pipelines.parsers.decode import decode
from tests import documents as make


def parse(data: bytes | str, media_type: str, encoding: str | None = None) -> ParserOutput:
    raw = data.encode() if isinstance(data, str) else data
    return parsers.find(media_type).parse(raw, media_type, encoding)


def shown(data: bytes | str, media_type: str, encoding: str | None = None) -> list[tuple[object, ...]]:
    """Kind and text of each block; headings with their level."""
    blocks = parse(data, media_type, encoding).blocks
    return [(b.kind, b.level, b.text) if b.kind == "heading" else (b.kind, b.text) for b in blocks]


def words(output: ParserOutput) -> str:
    return assemble(output, "test").text


# ---------------------------------------------------------------- text and encodings
@pytest.mark.parametrize(
    ("text", "codec", "told"),
    [
        ("Grüße aus Köln – schön", "utf-8", None),
        ("Grüße aus Köln – schön", "utf-8-sig", None),
        ("Grüße aus Köln", "cp1252", None),
        ("Grüße aus Köln", "latin-1", "latin-1"),
        ("Grüße aus Köln", "utf-16", None),
        ("Grüße aus Köln", "utf-32", None),
        ("Grüße aus Köln", "utf-16-le", "utf-16-le"),
        ("日本語の文章です。" * 20, "shift_jis", "shift_jis"),
        ("Grüße aus Köln", "utf-8", "no-such-codec"),
        ("Grüße aus Köln", "utf-8", "ascii"),
    ],
)
def test_text_is_decoded(text: str, codec: str, told: str | None) -> None:
    assert decode(text.encode(codec), told) == text


def test_one_bad_byte_does_not_turn_utf8_into_something_else() -> None:
    text = decode("Füße, Bäume, Flüsse und Straßen überall. ".encode() * 5 + b"\xff end", None)
    assert "Füße" in text
    assert text.endswith("\ufffd end")


def test_binary_is_no_text() -> None:
    with pytest.raises(ParseError, match="control characters") as raised:
        parse(bytes(range(32)) * 20, "text/plain")
    assert raised.value.code == "damaged"


def test_plain_text_keeps_indentation_and_splits_at_blank_lines() -> None:
    source = "def f():\r\n    return 1\r\n\r\n\r\n    indented\r\nlast"
    assert shown(source, "text/plain") == [("paragraph", "def f():\n    return 1"), ("paragraph", "    indented\nlast")]


# ---------------------------------------------------------------- markdown
def test_markdown_structure() -> None:
    source = """---
title: The Title
groups: staff, ops
tags: [a, b]
date: 2024-05-06
nested: {x: 1}
---
Setext *heading*
================

<!-- a comment -->

A para with `code_span`, **bold**, a [link](http://x.org "t") and ![an image](x.png)
that goes on. snake_case_name stays, 2 * 3 * 4 too, \\*escaped\\* and AT&amp;T.

- one
  - nested
- two

  more of two

3. three
4. four

```python
def f():

    return "**not bold**"
```

| a | b |
|---|---|
| 1 | `x` |

<p>raw <b>html</b></p>
<script>alert(1)</script>

### Deep ###
"""
    output = parse(source, "text/markdown")
    assert output.title == "The Title"
    assert output.fields == {
        "title": "The Title", "groups": ["staff", "ops"], "tags": ["a", "b"], "date": "2024-05-06"
    }  # fmt: skip
    assert [(b.kind, b.level, b.text) for b in output.blocks] == [
        ("heading", 1, "Setext heading"),
        (
            "paragraph",
            0,
            "A para with code_span, bold, a link and an image that goes on. "
            "snake_case_name stays, 2 * 3 * 4 too, *escaped* and AT&T.",
        ),
        ("list", 0, "- one\n  - nested\n- two\n  more of two"),
        ("list", 0, "3. three\n4. four"),
        ("code", 0, 'def f():\n\n    return "**not bold**"'),
        ("table", 0, "a | b\n1 | x"),
        ("paragraph", 0, "raw html"),
        ("heading", 3, "Deep"),
    ]


@pytest.mark.parametrize("block", ["a: [1", "just a sentence", "- 1\n- 2", "a: b: c"])
def test_front_matter_that_is_none_stays_text(block: str) -> None:
    output = parse(f"---\n{block}\n---\nBody text.\n", "text/markdown")
    assert output.fields == {}
    assert block in words(output)
    assert "Body text." in words(output)


def test_front_matter_bomb_is_cheap() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    output = parse("---\n" + "\n".join(lines) + "\n---\nBody.\n", "text/markdown")
    assert words(output) == "Body."
    assert list(output.fields) == ["a0"]


def test_toml_front_matter() -> None:
    assert parse('+++\ntitle = "T"\ngroups = ["a"]\n+++\nBody', "text/markdown").fields == {
        "title": "T",
        "groups": ["a"],
    }


@pytest.mark.parametrize(
    "source", [">" * 5_000 + " deep", "- " * 3_000 + "deep", "\n".join("  " * n + "- x" for n in range(900)) + " deep"]
)
def test_markdown_nested_without_end_keeps_its_text(source: str) -> None:
    assert "deep" in words(parse(source, "text/markdown"))


@given(st.lists(st.sampled_from(["word", "two words", "x_y", "1.5", "naïve", "日本"]), min_size=1, max_size=30))
def test_markdown_loses_no_word(found: list[str]) -> None:
    source = "# " + found[0] + "\n\n" + "\n\n".join(f"- {w}\n" if n % 3 else f"> {w}" for n, w in enumerate(found))
    text = words(parse(source, "text/markdown"))
    assert all(text.count(word) >= found.count(word) for word in found)


# ---------------------------------------------------------------- html
def test_html_structure() -> None:
    source = """<!doctype html><html><head><title>Page &amp; title</title><style>p{}</style></head><body>
<nav><a href=/>Home</a></nav><h1>Top<a class=headerlink>¶</a></h1>
<p>One <b>two</b>   three<br>four H<sub>2</sub>O</p>loose
<div hidden>secret</div><p style="display: none">secret</p><template>secret</template><noscript>secret</noscript>
<script>secret()</script><!-- secret -->
<ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ul>
<ol start=3><li>x</li><li>y</li></ol>
<pre><code>def f():
    <span>return</span> 1
</code></pre>
<table><caption>Cap</caption><tr><th>H1</th><th>H2</th></tr><tr><td>1</td><td>2<br>3</td></tr></table>
<table><tr><td><h2>In a layout</h2><p>cell</p></td></tr></table>
<dl><dt>Term</dt><dd>Meaning</dd></dl><img src=x alt="a picture">
</body></html>"""
    output = parse(source, "text/html")
    assert output.title == "Page & title"
    assert [(b.kind, b.level, b.text) for b in output.blocks] == [
        ("paragraph", 0, "Home"),
        ("heading", 1, "Top"),
        ("paragraph", 0, "One two three\nfour H2O"),
        ("paragraph", 0, "loose"),
        ("list", 0, "- a\n  - b\n- c\n  d"),
        ("list", 0, "3. x\n4. y"),
        ("code", 0, "def f():\n    return 1"),
        ("table", 0, "Cap\nH1 | H2\n1 | 2 3"),
        ("heading", 2, "In a layout"),
        ("paragraph", 0, "cell"),
        ("paragraph", 0, "Term"),
        ("paragraph", 0, "Meaning"),
        ("paragraph", 0, "a picture"),
    ]


@pytest.mark.parametrize("count", [100, 500, 5_000, 100_000])
@pytest.mark.parametrize("tag", ["div", "span", "ul><li", "table><tr><td", "font"])
def test_html_nested_deep_keeps_its_text(tag: str, count: int) -> None:
    text = words(parse(f"<html><body><p>before</p>{f'<{tag}>' * count}deep text<p>after", "text/html"))
    assert [part for part in ("before", "deep text", "after") if part not in text] == []


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        ('<meta charset="windows-1252">', "cp1252"),
        ('<meta http-equiv=Content-Type content="text/html; charset=iso-8859-15">', "iso-8859-15"),
        ("", "utf-8"),
        ("", "utf-16"),
    ],
)
def test_html_charset(head: str, codec: str) -> None:
    assert "Größe 5" in words(parse(f"<html><head>{head}</head><body>Größe 5</body></html>".encode(codec), "text/html"))


def test_xhtml_with_empty_title_is_not_swallowed() -> None:
    source = (
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{}</body></html>'
    )
    assert words(parse(source.format("<p>text</p>"), "text/html")) == "text"
    assert words(parse(source.format("<p>text&nbsp;more<br>"), "text/html")) == "text more"  # not well-formed


def test_html_without_text_has_no_blocks() -> None:
    assert list(parse("<html><body><script>x()</script><!-- c --></body></html>", "text/html").blocks) == []


# ---------------------------------------------------------------- tables and data
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_rows(delimiter: str) -> None:
    source = delimiter.join(("name", "city")) + "\n" + delimiter.join(('"Doe, Jane"', "Oslo")) + "\n\n"
    assert shown(source, "text/csv") == [("table", "name | city\nDoe, Jane | Oslo")]


def test_csv_with_a_lost_quote_keeps_its_rows() -> None:
    source = 'a,b\n"lost,1\n' + "".join(f"row{n},{n}\n" for n in range(200))
    text = words(parse(source, "text/csv"))
    assert "row0 | 0\nrow1 | 1" in text


def test_long_tables_become_several_blocks_under_their_header() -> None:
    source = "name,number\n" + "".join(f"row{n},{n}\n" for n in range(250))
    blocks = parse(source, "text/csv").blocks
    assert len(blocks) == 3
    assert [block.text.split("\n")[:2] for block in blocks] == [
        ["name | number", f"row{n} | {n}"] for n in (0, 100, 200)
    ]


@given(st.lists(st.lists(st.text(alphabet="ab |\n", max_size=4), max_size=5), max_size=8))
def test_every_filled_cell_is_in_its_row(table: list[list[str]]) -> None:
    text = "\n".join(block.text for block in rows.table_blocks(table))
    for row in table:
        for cell in row:
            assert " ".join(cell.split()) in text


def test_json_is_readable() -> None:
    value = {"title": "T", "items": [{"a": 1, "b": [True, None]}, {"a": "two\nlines"}], "empty": {}}
    output = parse(json.dumps(value), "application/json")
    assert output.title == "T"
    assert words(output) == "title: T\nitems:\n  - a: 1\n    b:\n      - true\n  - a: two\n    lines"


def test_json_records_stand_alone() -> None:
    assert len(parse('[{"a": 1}, {"a": 2}]', "application/json").blocks) == 2
    assert len(parse('{"a": 1}\n\n{"a": 2}\nnot json\n', "application/x-ndjson").blocks) == 3


@pytest.mark.parametrize(
    "source", ["[" * 100_000, '{"a": "cut off', "// comment\n{}", "[" * 900 + '"deep"' + "]" * 900]
)
def test_json_that_is_broken_or_deep_is_text(source: str) -> None:
    assert words(parse(source, "application/json"))


def test_yaml_stays_as_it_is() -> None:
    assert words(parse("# note\na:\n  - b\n", "application/yaml")) == "# note\na:\n  - b"


def test_notebook() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Study\n", "Some *text*."]},
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "2", "image/png": "iVBOR"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "bad", "traceback": ["x"]},
            ],
        },
    ]
    output = parse(json.dumps({"cells": cells, "nbformat": 4}), "application/x-ipynb+json")
    assert output.title == "Study"
    assert [(b.kind, b.text) for b in output.blocks] == [
        ("heading", "Study"), ("paragraph", "Some text."), ("code", "print(1)"), ("code", "1"), ("code", "2"),
        ("code", "ValueError: bad"),
    ]  # fmt: skip
    with pytest.raises(ParseError, match="no JSON"):
        parse("{", "application/x-ipynb+json")


# ---------------------------------------------------------------- xml
def test_xml_data_and_prose() -> None:
    source = (
        "<c><country><name>Norway</name><capital>Oslo</capital></country><p>Mixed <b>prose</b> here.</p><e id='7'/></c>"
    )
    assert words(parse(source, "application/xml")) == "name: Norway\ncapital: Oslo\n\nMixed prose here.\n\ne: id=7"


def test_feeds_with_html_inside() -> None:
    page = "&lt;p&gt;Hello &lt;b&gt;you&lt;/b&gt;&lt;/p&gt;"
    source = f"<rss><item><title>T</title><description>{page}</description></item></rss>"
    assert "Hello you" in words(parse(source, "application/xml"))


def test_xml_reads_no_other_file() -> None:
    source = f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{__file__}">]><r><a>&x;</a><b>after it</b></r>'
    text = words(parse(source, "application/xml"))
    assert "test_xml_reads_no_other_file" not in text
    assert "after it" in text


def test_xml_entities_of_its_own() -> None:
    assert (
        words(parse('<!DOCTYPE r [<!ENTITY in "inside">]><r><b>&in; it</b></r>', "application/xml")) == "b: inside it"
    )


def test_billion_laughs() -> None:
    entities = '<!ENTITY l0 "lol">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    with pytest.raises(ParseError) as raised:
        parse(f"<!DOCTYPE r [{entities}]><r>&l11;</r>", "application/xml")
    assert raised.value.code == "damaged"


def test_broken_xml_gives_what_is_there() -> None:
    assert "Norway" in words(parse("<c><name>Norway</name><capital>Os", "application/xml"))


# ---------------------------------------------------------------- rst and org
def test_rst() -> None:
    source = (
        "Title\n=====\n\nText with ``code``.\n\n- a\n- b\n\n::\n\n    x = 1\n\n"
        ".. list-table::\n\n   * - H1\n     - H2\n   * - v1\n     - v2\n"
    )
    assert shown(source, "text/x-rst") == [
        ("heading", 1, "Title"), ("paragraph", "Text with code."), ("list", "- a\n- b"), ("code", "x = 1"),
        ("table", "H1 | H2\nv1 | v2"),
    ]  # fmt: skip


def test_org() -> None:
    source = "#+TITLE: T\n* Head\nText /here/.\n#+BEGIN_SRC sh\nls\n#+END_SRC\n"
    assert shown(source, "text/x-org") == [
        ("heading", 1, "T"), ("heading", 1, "Head"), ("paragraph", "Text here."), ("code", "ls")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "source"),
    [
        ("text/x-rst", ".. include:: {}\n\nAfter.\n"),
        ("text/x-rst", ".. csv-table::\n   :file: {}\n\nAfter.\n"),
        ("text/x-rst", ".. raw:: html\n   :file: {}\n\nAfter.\n"),
        ("text/x-org", '#+INCLUDE: "{}"\nAfter.\n'),
    ],
)
def test_includes_open_no_file(media_type: str, source: str) -> None:
    text = words(parse(source.format(__file__), media_type))
    assert "test_includes_open_no_file" not in text
    assert "After." in text


# ---------------------------------------------------------------- office
def test_docx_structure() -> None:
    styles = (
        '<w:style w:styleId="H1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:styleId="Mine"><w:name w:val="Mine"/><w:basedOn w:val="H1"/></w:style>'
        '<w:style w:styleId="T"><w:name w:val="Title"/></w:style>'
    )
    numbering = (
        '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/>'
        '<w:lvlText w:val="%1."/></w:lvl><w:lvl w:ilvl="1"><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/>'
        '</w:lvl></w:abstractNum><w:num w:numId="5"><w:abstractNumId w:val="0"/></w:num>'
    )

    def item(text: str, depth: int, number: int = 5) -> str:
        return make.paragraph(text, f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{number}"/></w:numPr>')

    def cell(text: str) -> str:
        return f"<w:tc>{make.paragraph(text)}</w:tc>"

    body = (
        make.paragraph("The title", '<w:pStyle w:val="T"/>')
        + make.paragraph("A section", '<w:pStyle w:val="Mine"/>')
        + "<w:p><w:r><w:t>Kept</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t> and added</w:t></w:r></w:ins><w:r><w:br/><w:t>new line</w:t></w:r></w:p>"
        + item("first", 0) + item("inner", 1) + item("second", 0) + item("bullet", 0, 9)
        + "<w:sdt><w:sdtContent>" + make.paragraph("In a control") + "</w:sdtContent></w:sdt>"
        + f"<w:tbl><w:tr>{cell('a')}{cell('b')}</w:tr><w:tr>{cell('1')}"
        f"<w:tc><w:tbl><w:tr>{cell('n1')}{cell('n2')}</w:tr></w:tbl></w:tc></w:tr></w:tbl>"
        + f"<w:p><w:r><w:drawing><w:txbxContent>{make.paragraph('In a box')}</w:txbxContent></w:drawing></w:r></w:p>"
    )  # fmt: skip
    data = make.docx(
        body, styles=styles, numbering=numbering, header=make.paragraph("Letterhead"), footer=make.paragraph("7"),
        footnotes=make.paragraph("A footnote"),
    )  # fmt: skip
    output = parse(data, make.WORD)
    assert output.title == "The title"
    assert [(b.kind, b.text) for b in output.blocks] == [
        ("paragraph", "Letterhead"),
        ("heading", "The title"),
        ("heading", "A section"),
        ("paragraph", "Kept and added\nnew line"),
        ("list", "1. first\n  1.a) inner\n2. second\n- bullet"),
        ("paragraph", "In a control"),
        ("table", "a | b\n1 | n1 | n2"),
        ("paragraph", "In a box"),
        ("paragraph", "A footnote"),
    ]


def test_pptx_structure() -> None:
    def cell(text: str) -> str:
        return f"<a:tc><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:tc>"

    rows = f"<a:tr>{cell('x')}{cell('y')}</a:tr><a:tr><a:tc/>{cell('z')}</a:tr>"
    table = f"<p:graphicFrame><a:tbl>{rows}</a:tbl></p:graphicFrame>"
    data = make.pptx(
        make.shape("First", role="title") + make.shape("one", "two", role="body") + make.shape("Corp", role="ftr"),
        make.shape("Second", role="ctrTitle") + f"<p:grpSp>{make.shape('grouped')}</p:grpSp>" + table
        + make.shape("Corp", role="ftr") + make.shape("2", role="sldNum"),
    )  # fmt: skip
    assert [(b.kind, b.page, b.text) for b in parse(data, make.SLIDES).blocks] == [
        ("heading", 1, "First"), ("list", 1, "- one\n- two"), ("paragraph", 1, "Corp"),
        ("heading", 2, "Second"), ("paragraph", 2, "grouped"), ("table", 2, "x | y\n | z"),
    ]  # fmt: skip


def test_xlsx_structure() -> None:
    data = make.xlsx({"Sales": [["City", "Sold"], ["Oslo", 7]], "Empty": [], "Other": [["just one"]]})
    assert shown(data, make.SHEET) == [
        ("heading", 1, "Sales"), ("table", "City | Sold\nOslo | 7"), ("heading", 1, "Other"), ("table", "just one"),
    ]  # fmt: skip


def test_odt_structure() -> None:
    body = (
        '<text:h text:outline-level="2">Head</text:h><text:p>A<text:s text:c="2"/>b<text:line-break/>c</text:p>'
        "<text:list><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>in</text:p></text:list-item>"
        "</text:list></text:list-item></text:list><table:table><table:table-row>"
        '<table:table-cell table:number-columns-repeated="2"><text:p>x</text:p></table:table-cell>'
        '</table:table-row><table:table-row table:number-rows-repeated="1000000">'
        "<table:table-cell/></table:table-row></table:table>"
    )
    assert [(kind, *rest) for kind, *rest in shown(make.odt(body), make.OPEN_TEXT)] == [
        ("heading", 2, "Head"), ("paragraph", "A  b\nc"), ("list", "- one\n  - in"), ("table", "x | x"),
    ]  # fmt: skip


def test_epub_follows_the_spine() -> None:
    output = parse(
        make.epub("<html><body><h1>Two</h1></body></html>", "<html><body><h1>One</h1></body></html>"), make.EPUB
    )
    assert (output.title, output.fields) == ("A Book", {"author": "A. Writer"})
    assert [block.text for block in output.blocks] == ["One", "Two"]


def test_rtf() -> None:
    text = words(parse(rb"{\rtf1\ansi Hello {\b bold} world.\par Second line.\par}", "application/rtf"))
    assert "Hello bold world." in text
    assert "Second line." in text


# ---------------------------------------------------------------- mail
def test_mail() -> None:
    message = EmailMessage()
    message["Subject"] = "Größe"
    message["From"], message["To"] = "a@example.org", "b@example.org"
    message.set_content("Plain body.")
    message.add_alternative("<p>HTML body.</p>", subtype="html")
    message.add_attachment("attached words", filename="note.txt")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="p.png")
    output = parse(message.as_bytes(), "message/rfc822")
    assert output.title == "Größe"
    assert words(output) == (
        "Größe\n\nFrom: a@example.org\nTo: b@example.org\n\nPlain body.\n\nAttachment: note.txt\n\nattached words\n\n"
        "Attachment: p.png"
    )


def test_mail_inside_mail_and_html_only() -> None:
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("<h1>Inside</h1>", subtype="html")
    outer = EmailMessage()
    outer["Subject"] = "Outer"
    outer.set_content("See below.")
    outer.add_attachment(inner)
    text = words(parse(outer.as_bytes(), "message/rfc822"))
    assert text.index("Outer") < text.index("See below.") < text.index("Inner") < text.index("Inside")


def test_encrypted_mail() -> None:
    kind = b'multipart/encrypted; boundary=b; protocol="application/pgp-encrypted"'
    source = b"Subject: x\nContent-Type: " + kind + b"\n\n--b\n\nVersion: 1\n--b--\n"
    with pytest.raises(ParseError) as raised:
        parse(source, "message/rfc822")
    assert raised.value.code == "encrypted"


# ---------------------------------------------------------------- pdf
BODY = [
    "The first line of this paragraph is as long as lines here are, and it",
    "goes on over a second line that is nearly as long as the first one is",
    "until it ends.",
]


def test_pdf_structure() -> None:
    first = [(50, 740, 24, "The heading")]
    first += [(50, 700 - 14 * n, 12, line) for n, line in enumerate(BODY)]
    first += [(50, 640 - 14 * n, 12, line) for n, line in enumerate(BODY)]
    second = [
        (50, 740, 12, "On the second page we find some infor-"),
        (50, 726, 12, "mation and no more of it than this."),
    ]
    output = parse(make.pdf(first, second), make.PDF)
    paragraph = " ".join(BODY)
    assert [(b.kind, b.page, b.text) for b in output.blocks] == [
        ("heading", 1, "The heading"),
        ("paragraph", 1, paragraph),
        ("paragraph", 1, paragraph),
        ("paragraph", 2, "On the second page we find some information and no more of it than this."),
    ]


def test_encrypted_pdf() -> None:
    data = make.pdf([(50, 700, 12, "secret")], password="sesame")
    with pytest.raises(ParseError) as raised:
        parse(data, make.PDF)
    assert (raised.value.code, raised.value.transient) == ("encrypted", False)


def test_pdf_without_text_asks_for_ocr() -> None:
    with pytest.raises(ParseError, match="scanned") as raised:
        parse(make.pdf([]), make.PDF)
    assert raised.value.code == "empty"
    assert "OCR" in raised.value.hint


@pytest.mark.parametrize("data", [b"%PDF-1.7\nnothing", b"%PDF-1.4\n" + bytes(range(256)) * 40])
def test_damaged_pdf(data: bytes) -> None:
    with pytest.raises(ParseError) as raised:
        parse(data, make.PDF)
    assert raised.value.code == "damaged"


# ---------------------------------------------------------------- broken and hostile containers
GOOD = {
    make.WORD: make.docx(make.paragraph("some words " * 50)),
    make.SLIDES: make.pptx(make.shape("some words " * 50)),
    make.SHEET: make.xlsx({"S": [["some", "words"]] * 50}),
    make.OPEN_TEXT: make.odt("<text:p>some words</text:p>" * 50),
    make.EPUB: make.epub("<html><body>some words</body></html>"),
}


@pytest.mark.parametrize("media_type", GOOD)
def test_cut_off_containers_are_damaged(media_type: str) -> None:
    data = GOOD[media_type]
    assert "some words" in words(parse(data, media_type)).replace(" | ", " ")
    for end in (len(data) // 2, len(data) - 30, 40):
        with pytest.raises(ParseError) as raised:
            parse(data[:end], media_type)
        assert raised.value.code == "damaged"


@pytest.mark.parametrize("media_type", GOOD)
def test_any_zip_under_an_office_name_is_refused(media_type: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse(make.zipped({"other.txt": "hello"}), media_type)
    assert raised.value.code == "damaged"


def test_entities_in_office_files_are_refused() -> None:
    data = make.zipped(
        {
            "_rels/.rels": make.relations(r1=("officeDocument", "word/document.xml")),
            "word/document.xml": '<!DOCTYPE d [<!ENTITY a "x">]><d><body><p><r><t>&a;</t></r></p></body></d>',
        }
    )
    with pytest.raises(ParseError, match="entities"):
        parse(data, make.WORD)


def test_zip_bomb_is_counted_before_it_is_opened() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(4):
            archive.writestr(f"word/{n}.xml", bytes(1 << 20))
    check_unpacked(buffer.getvalue(), 4 << 20)
    with pytest.raises(ParseError) as raised:
        check_unpacked(buffer.getvalue(), (4 << 20) - 1)
    assert raised.value.code == "too_large"


def test_docx_of_many_paragraphs_is_no_bomb() -> None:
    """94 KB of this kept unstructured busy for four minutes."""
    data = make.docx(make.paragraph("x") * 100_000)
    assert len(parse(data, make.WORD).blocks) == 100_000


def test_docx_nested_tables_without_end() -> None:
    nest = "<w:tbl><w:tr><w:tc>" * 400 + make.paragraph("deep") + "</w:tc></w:tr></w:tbl>" * 400
    try:
        assert "deep" in words(parse(make.docx(nest), make.WORD))
    except RecursionError:
        pass  # which the worker turns into a reject; the text or a clean refusal, nothing else


WHOLE = GOOD | {
    make.PDF: make.pdf([(50, 700, 24, "Head"), (50, 670, 12, "some words")]),
    "text/html": b"<html><head><title>t</title></head><body><h1>a</h1><ul><li>b<table><tr><td>c</table></ul><pre>d",
    "text/markdown": b"---\ntitle: a\n---\n# b\n\n- c\n  > d\n\n| e | f |\n|---|---|\n| `g` | <b>h</b> |\n\n```\ni",
    "application/json": b'{"a": [1, {"b": "c"}, null], "d": {"e": [[]]}}',
    "message/rfc822": b"Subject: =?utf-8?q?a?=\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nd\n--x--\n",
}


@pytest.mark.parametrize("media_type", WHOLE)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutilated_files_give_text_or_a_reason(media_type: str, data: st.DataObject) -> None:
    broken = bytearray(WHOLE[media_type])
    for _ in range(data.draw(st.integers(1, 5))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(broken))] * 2)))
    if data.draw(st.booleans()):
        del broken[first:last]
    with contextlib.suppress(ParseError):  # any other error fails
        assemble(parse(bytes(broken), media_type), "test")


def test_a_tag_that_is_called_memory_is_no_lack_of_it() -> None:
    assert "kept" in words(parse("<memory>kept<b></memory>", "application/xml"))


# ---------------------------------------------------------------- the registry
@pytest.mark.parametrize(
    ("media_type", "code"),
    [
        ("application/x-ole-encrypted", "encrypted"),
        ("image/png", "unsupported"),
        ("audio/wav", "unsupported"),
        ("video/mp4", "unsupported"),
        ("application/zip", "unsupported"),
        ("application/gzip", "unsupported"),
        ("application/octet-stream", "unsupported"),
    ],
)
def test_what_has_no_parser_says_why_and_what_to_do(media_type: str, code: str) -> None:
    with pytest.raises(ParseError) as raised:
        parsers.find(media_type)
    assert raised.value.code == code
    assert raised.value.message
    assert raised.value.hint
    assert parsers.parser_fingerprint(media_type) == parsers.parser_fingerprint(media_type)


def test_every_built_in_names_packages_that_are_installed() -> None:
    for spec in parsers.BUILT_IN:
        assert "none" not in {parsers._version(package) for package in spec.packages}, spec.name
        spec.load()


def test_the_general_parser_reads_on_without_its_model_from_outside() -> None:
    """unstructured would fetch a model here; the stand-in or the real one has to do."""
    output = general.parse(b"A first sentence stands here. A second one follows it.\n\n- item", "text/plain", "utf-8")
    assert "second one follows" in words(output)
    assert general.language_model() in ("en_core_web_sm", "blank-en+sentencizer")


def test_what_is_cleaned_is_searched_for_first() -> None:
    from ragops_pipelines import parse as stage

    every = [chr(code) for code in range(0x110000)]
    changed = {
        c for c in every if stage._LINE_ENDS.search(c) or stage._DROPPED.search(c) or stage._SURROGATES.search(c)
    }
    assert {c for c in every if stage._UNCLEAN.search(c)} == changed


@given(
    st.lists(
        st.builds(
            Block,
            st.sampled_from(["heading", "paragraph", "list", "table", "code"]),
            st.text(max_size=40),
            st.integers(0, 6),
            st.none() | st.integers(1, 9),
        ),
        max_size=8,
    )
)
def test_assembled_text(blocks: list[Block]) -> None:
    import unicodedata

    parsed = assemble(ParserOutput(blocks), "p")
    assert unicodedata.is_normalized("NFC", parsed.text)
    assert "\n\n".join(parsed.text[span.start : span.end] for span in parsed.spans) == parsed.text
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in parsed.text if c not in "\t\n")
    for span in parsed.spans:
        text = parsed.text[span.start : span.end]
        assert text.strip()
        assert span.kind == "code" or "\n\n" not in text
    assert (
        assemble(ParserOutput([Block(s.kind, parsed.text[s.start : s.end]) for s in parsed.spans]), "p").text
        == parsed.text
    )
