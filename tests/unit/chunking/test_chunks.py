from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.chunking.chunker import Chunk, Chunker
from pipelines.chunking.layout import document_text
from pipelines.config import ChunkingConfig, EncoderConfig
from pipelines.embedding.tokenizer import Tokenizer, load_tokenizer
from pipelines.parsing.elements import KINDS, Element

VOCABULARY = (
    "policy invoice server travel expense report manager review budget quarter holiday laptop network printer meeting "
    "agenda salary contract supplier warehouse customer ticket password backup audit"
)
WORDS = VOCABULARY.split()


def tokenizer() -> Tokenizer:
    return load_tokenizer(EncoderConfig())


def chunker(max_tokens: int | None = None, *, heading_context: bool = True) -> Chunker:
    return Chunker(ChunkingConfig(max_tokens=max_tokens, heading_context=heading_context), tokenizer())


def prose(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return " ".join(
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(6, 18))).capitalize() + "." for _ in range(sentences)
    )


def p(text: str, page: int | None = None) -> Element:
    return Element("paragraph", text, page=page)


def h(text: str, level: int = 1) -> Element:
    return Element("heading", text, level=level)


def assert_sound(chunks: Sequence[Chunk], elements: Sequence[Element], max_tokens: int) -> None:
    """No chunk is cut by the encoder, and the bodies hold the whole document, each character once."""
    text = document_text(elements)
    assert [chunk.tokens for chunk in chunks] == tokenizer().count([chunk.text for chunk in chunks])
    assert all(chunk.tokens <= max_tokens and len(chunk.text) <= max_tokens * 8 for chunk in chunks)
    at = 0
    for chunk in chunks:
        assert chunk.char_start >= at
        assert not text[at : chunk.char_start].strip()
        at = chunk.char_end
        body, span = chunk.text[chunk.body_start :], text[chunk.char_start : chunk.char_end]
        assert span.strip()
        assert body == span or (body.endswith("\n" + span) and body.removesuffix(span).strip() in text)
        assert chunk.body_start == 0 or chunk.text[chunk.body_start - 1] == "\n"
    assert not text[at:].strip()
    assert bool(chunks) == bool(text)


ODD = st.sampled_from(
    [
        "x" * 700,
        "ab1/" * 300,
        "漢字仮名" * 90,
        "これは文です。" * 40,
        "ภาษาไทยไม่มีช่องว่าง" * 40,
        "👩\u200d👩\u200d👧🇩🇪" * 60,
        "\u200b" * 600,
        "a" + "\u0301" * 400,
        "One. Two! Three? " * 60,
        "name | amount\n" + "row | 1,000\n" * 120,
        "def f():\n\n    return 1\n" * 60,
        "no marks at all just words " * 60,
        "",
        " \n ",
        "\ufeff",
        "한국어 문장입니다. " * 40,
        "\x0b\x1ccontrol\x85",
    ]
)
ELEMENTS = st.lists(
    st.builds(
        Element,
        st.sampled_from(KINDS),
        ODD | st.text(max_size=200) | st.integers(0, 60).map(lambda n: prose(n, n)),
        level=st.none() | st.integers(0, 9),
        page=st.none() | st.integers(1, 3),
    ),
    max_size=12,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(ELEMENTS, st.text(max_size=40) | ODD, st.sampled_from([17, 40, 128, 256, None]), st.booleans())
def test_nothing_is_ever_cut_by_the_encoder_and_nothing_is_lost(
    elements: list[Element], title: str, max_tokens: int | None, heading_context: bool
) -> None:
    chunks = chunker(max_tokens, heading_context=heading_context).chunks(title, elements)
    assert_sound(chunks, elements, max_tokens or 256)
    if not heading_context:
        assert all(chunk.body_start == 0 for chunk in chunks)


def test_a_short_document_is_one_chunk_with_its_title_above() -> None:
    (chunk,) = chunker().chunks("Travel policy", [p("Book early."), p("Keep receipts.")])
    assert chunk.text == "Travel policy\nBook early.\n\nKeep receipts."
    assert (chunk.body_start, chunk.char_start, chunk.char_end) == (14, 0, 27)
    assert (chunk.kind, chunk.heading_path, chunk.section) == ("text", (), 0)


def test_a_document_without_visible_text_has_no_chunks() -> None:
    assert chunker().chunks("Title", []) == []
    assert chunker().chunks("Title", [p(" \n"), p("")]) == []


def test_a_document_of_headings_alone_has_a_chunk() -> None:
    (chunk,) = chunker().chunks("", [h("One"), h("Two", 2)])
    assert chunk.text == "One\n\nTwo"
    assert chunk.heading_path == ("One",)


def test_sections_begin_chunks_and_their_headings_are_the_context() -> None:
    elements = [
        h("Handbook"),
        p(prose(1, 10)),
        h("Travel", 2),
        p(prose(2, 10)),
        p(prose(3, 10)),
        h("Leave", 2),
        p(prose(4, 9)),
    ]
    chunks = chunker().chunks("Handbook", elements)
    assert_sound(chunks, elements, 256)
    contexts = [chunk.text[: chunk.body_start] for chunk in chunks]
    starts = [chunk.text[chunk.body_start :].split("\n")[0][:8] for chunk in chunks]
    assert contexts == ["", "Handbook\n", "Handbook > Travel\n", "Handbook\n"]
    assert [starts[i] for i in (0, 1, 3)] == ["Handbook", "Travel", "Leave"]
    assert [chunk.heading_path for chunk in chunks] == [
        ("Handbook",),
        ("Handbook", "Travel"),
        ("Handbook", "Travel"),
        ("Handbook", "Leave"),
    ]
    assert [chunk.section for chunk in chunks] == [1, 2, 2, 3]


def test_tiny_sections_share_a_chunk_that_belongs_to_their_parent() -> None:
    elements = [h("FAQ")]
    for i in range(4):
        elements += [h(f"Question {i}?", 2), p(f"Answer number {i}.")]
    (chunk,) = chunker().chunks("Help", elements)
    assert chunk.heading_path == ("FAQ",)
    assert chunk.section == 1
    assert chunk.text.startswith("Help\nFAQ\n\nQuestion 0?")


def test_a_heading_never_ends_a_chunk() -> None:
    elements = [e for i in range(12) for e in (h(f"Heading {i}", 2), p(prose(i, 3 + i % 7)))]
    for max_tokens in (60, 120, 256):
        for chunk in chunker(max_tokens).chunks("Doc", elements):
            assert not chunk.text.splitlines()[-1].startswith("Heading")


def test_a_deeper_heading_closes_with_the_next_outer_one() -> None:
    long = prose(5, 14)
    elements = [h("A", 1), p(long), h("B", 3), p(long), h("C", 2), p(long), h("D", 1), p(long)]
    paths = {chunk.heading_path for chunk in chunker(128).chunks("", elements)}
    assert paths == {("A",), ("A", "B"), ("A", "C"), ("D",)}


def test_the_rows_of_a_long_table_stay_whole_and_repeat_its_header() -> None:
    rows = [f"{name} item {i} | {i * 7} EUR | shelf {i % 9}" for i, name in enumerate(WORDS * 4)]
    elements = [h("Prices"), Element("table", "Article | Price | Place\n" + "\n".join(rows), page=2)]
    chunks = chunker().chunks("List", elements)
    assert_sound(chunks, elements, 256)
    assert len(chunks) > 4
    bodies = [chunk.text[chunk.body_start :].split("\n") for chunk in chunks]
    assert bodies[0][:3] == ["Prices", "", "Article | Price | Place"]
    assert all(body[0] == "Article | Price | Place" for body in bodies[1:])
    assert [row for body in bodies for row in body if "EUR" in row] == rows
    assert {chunk.kind for chunk in chunks} == {"table"}
    assert {chunk.pages for chunk in chunks} == {(2,)} | {chunks[0].pages}


def test_long_code_is_divided_between_lines_and_keeps_its_indentation() -> None:
    code = "\n\n".join(f"def function_{i}(value):\n    total = value + {i}\n    return total" for i in range(40))
    elements = [Element("code", code, language="python")]
    chunks = chunker().chunks("Module", elements)
    assert_sound(chunks, elements, 256)
    assert all(chunk.text[chunk.body_start :].startswith("def function_") for chunk in chunks)
    assert {chunk.kind for chunk in chunks} == {"code"}


def test_the_items_of_a_list_are_lines_of_one_block() -> None:
    elements = [Element("list_item", f"{i}. {prose(i, 1)}") for i in range(60)]
    chunks = chunker(100).chunks("Steps", elements)
    assert {chunk.kind for chunk in chunks} == {"list"}
    assert all("\n\n" not in chunk.text for chunk in chunks)
    assert all(chunk.text[chunk.body_start].isdigit() for chunk in chunks)


def test_a_long_paragraph_is_divided_between_sentences_into_balanced_chunks() -> None:
    chunks = chunker().chunks("", [p(prose(7, 28))])
    assert len(chunks) == 2
    assert all(chunk.text.endswith(".") for chunk in chunks)
    assert min(chunk.tokens for chunk in chunks) > 100


@pytest.mark.parametrize("mark", ["。", "！", "।", "۔"])
def test_sentences_are_found_without_spaces_between_words(mark: str) -> None:
    rng = random.Random(3)
    text = "".join(
        "".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(rng.randint(15, 30))) + mark for _ in range(60)
    )
    chunks = chunker().chunks("", [p(text)])
    assert len(chunks) > 5
    assert all(chunk.text.endswith(mark) for chunk in chunks)


def test_written_characters_are_never_divided() -> None:
    family = "👩\u200d👩\u200d👧"
    for chunk in chunker(32).chunks("", [p(family * 500)]):
        assert chunk.text == family * (len(chunk.text) // len(family))


def test_pages_are_those_of_the_elements_in_the_chunk() -> None:
    chunks = chunker().chunks("", [p("a", 3), p("b", 3), p("c", 4), p("d")])
    assert [chunk.pages for chunk in chunks] == [(3, 4)]


def test_a_long_title_and_path_take_at_most_a_quarter_and_keep_both_ends() -> None:
    elements = [h("Part " + prose(1, 4)), h("Chapter " + prose(2, 4), 2), h("Section of interest", 3), p(prose(3, 60))]
    chunks = chunker().chunks("Annual report " + prose(4, 1), elements)
    assert_sound(chunks, elements, 256)
    context = chunks[-1].text[: chunks[-1].body_start]
    assert context.startswith("Annual report")
    assert context.endswith("… > Section of interest\n")
    assert tokenizer().count_bare([context])[0] <= 254 // 4


def test_a_title_too_long_by_itself_is_shortened() -> None:
    chunks = chunker().chunks("word " * 500, [p("Body.")])
    assert chunks[0].text.startswith("word word")
    assert chunks[0].text.endswith("word …\nBody.")
    assert chunks[0].tokens <= 256 // 4 + 4


def test_a_title_that_the_document_repeats_is_said_once() -> None:
    chunks = chunker().chunks("The Plan", [Element("title", "The plan"), p(prose(1, 40))])
    assert chunks[0].text.startswith("The plan\n\n")
    assert chunks[1].text.startswith("The Plan\n")
    assert "plan" not in chunks[1].text[chunks[1].body_start :]


FLAT = [p(prose(1000 + i, 1 + i % 5)) for i in range(150)]
SECTIONS = [h(prose(i, 1)[:20], 1 + i % 3) if i % 6 == 0 else e for i, e in enumerate(FLAT)]
ITEMS = [Element("list_item", prose(2000 + i, 1)) for i in range(400)]
MOST_CHANGED = 10  # a part of at most four full chunks, packed anew


LONG_DOCUMENTS = {"flat": FLAT, "sections": SECTIONS, "list": ITEMS}


@pytest.mark.parametrize("name", LONG_DOCUMENTS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.integers(5000, 6000), st.integers(1, 8), st.sampled_from(["insert", "replace", "remove"]))
def test_an_inserted_edited_or_removed_paragraph_changes_only_its_neighbourhood(
    name: str, place: float, seed: int, sentences: int, edit: str
) -> None:
    elements = LONG_DOCUMENTS[name]
    at = int(place * (len(elements) - 1))
    if elements[at].kind == "heading":  # replacing one is a change of everything below it
        edit = "insert"
    new = [] if edit == "remove" else [Element(elements[-1].kind, prose(seed, sentences))]
    edited = [*elements[:at], *new, *elements[at if edit == "insert" else at + 1 :]]
    before = Counter(chunk.text for chunk in chunker().chunks("Doc", elements))
    after = Counter(chunk.text for chunk in chunker().chunks("Doc", edited))
    assert before.total() > 2 * MOST_CHANGED
    assert (after - before).total() <= MOST_CHANGED
    assert (before - after).total() <= MOST_CHANGED


def test_words_put_early_into_one_endless_paragraph_change_only_their_neighbourhood() -> None:
    for text, added in (
        (prose(9, 400), "A new remark. "),
        (prose(9, 400).replace(".", ""), "a new remark "),
        ("".join(chr(0x4E00 + i * 7919 % 15000) for i in range(9000)), "新增的话"),
    ):
        before = Counter(chunk.text for chunk in chunker().chunks("", [p(text)]))
        after = Counter(chunk.text for chunk in chunker().chunks("", [p(text[:100] + added + text[100:])]))
        assert before.total() > 15
        assert (after - before).total() <= MOST_CHANGED


def test_chunks_are_not_tiny_in_a_long_document() -> None:
    for elements in (FLAT, SECTIONS, ITEMS):
        tokens = sorted(chunk.tokens for chunk in chunker().chunks("Doc", elements))
        assert sum(tokens) / len(tokens) > 0.65 * 256
        assert tokens[len(tokens) // 20] > 60


def test_dividing_the_same_document_twice_gives_the_same_chunks() -> None:
    assert chunker().chunks("Doc", SECTIONS) == chunker().chunks("Doc", SECTIONS)
