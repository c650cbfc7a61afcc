"""Structure of the text formats; documents are parsed in this process, the worker is test_parsing_stage's subject."""

from __future__ import annotations

import json
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from pipelines.config import ParsingConfig
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.failures import ArchiveBomb, Damaged, Encrypted, TooLarge, Unreadable, Unsupported
from pipelines.parsing.parser import parse

CONFIG = ParsingConfig(workers=1)


def read(content: str | bytes, media_type: str) -> Parsed:
    return parse(content.encode() if isinstance(content, str) else content, media_type, CONFIG)


def shape(parsed: Parsed) -> list[tuple[str, str]]:
    return [(element.kind, element.text) for element in parsed.elements]


MARKDOWN = """---
title: The handbook
author: [Ann, Ben]
date: 2024-05-01
lastmod: 2024-06-01
tags: [a, b]
lang: en
---
# Start {#start}

A *paragraph* with `code`,
a [link](http://x) and ![a picture](x.png).

## Deeper

- one
- two
  wrapped

  second paragraph
1. first
2. second

> quoted

```python
def f():
    return 1
```

| Name | Age |
|------|-----|
| Ann  | 7   |

<div><p>Inside <b>HTML</b></p></div>
"""


def test_markdown_keeps_its_structure():
    parsed = read(MARKDOWN, "text/markdown")
    assert shape(parsed) == [
        ("heading", "Start"),
        ("paragraph", "A paragraph with code, a link and a picture."),
        ("heading", "Deeper"),
        ("list_item", "one"),
        ("list_item", "two wrapped"),
        ("list_item", "second paragraph"),
        ("list_item", "1. first"),
        ("list_item", "2. second"),
        ("quote", "quoted"),
        ("code", "def f():\n    return 1"),
        ("table", "Name | Age\nAnn | 7"),
        ("paragraph", "Inside HTML"),
    ]
    assert [e.level for e in parsed.elements if e.kind == "heading"] == [1, 2]
    assert [e.language for e in parsed.elements if e.kind == "code"] == ["python"]
    html = next(e.html for e in parsed.elements if e.kind == "table")
    assert html == "<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>7</td></tr></table>"


def test_front_matter_becomes_metadata():
    parsed = read(MARKDOWN, "text/markdown")
    assert parsed.title == "The handbook"
    assert parsed.metadata == {
        "author": "Ann; Ben", "created": "2024-05-01", "modified": "2024-06-01", "language": "en", "tags": ["a", "b"]
    }  # fmt: skip


@pytest.mark.parametrize(
    "front",
    [
        "---\n: : [\n---\n",
        "---\n- a\n- b\n---\n",
        "+++\ntitle = 'x'\n+++\n",
        "---\na: &a [x]\nb: [*a, *a]\ntags: *a\n---\n",
    ],
)
def test_odd_front_matter_does_not_stop_markdown(front):
    assert shape(read(front + "\n# Body\n", "text/markdown"))[-1] == ("heading", "Body")


def test_without_a_title_in_the_front_matter_the_first_heading_is_the_title():
    assert read("Intro.\n\n# The point\n", "text/markdown").title == "The point"


def test_html_keeps_its_structure_and_leaves_out_what_is_not_read():
    parsed = read(
        """<html lang="de"><head><title>Page</title><meta name="author" content="Ann">
        <meta name="keywords" content="x, y">
        <meta property="article:published_time" content="2024-01-02T03:04:05Z"><style>p{}</style></head><body>
        <nav>Menu</nav><h1>Top</h1><p>One<br>two <script>alert(1)</script><span hidden>secret</span></p>
        <ol start="3"><li>three<ul><li>inner</li></ul></li><li>four</li></ol>
        <pre><code class="language-go">a
  b</code></pre><blockquote><p>Said</p></blockquote>
        <table><caption>Cap</caption><tr><th rowspan=2>A</th><td>1</td></tr><tr><td>2</td></tr></table>
        <figure><figcaption>Fig</figcaption></figure></body></html>""",
        "text/html",
    )
    assert parsed.title == "Page"
    assert parsed.metadata == {
        "language": "de", "author": "Ann", "tags": ["x", "y"], "created": "2024-01-02T03:04:05+00:00"
    }  # fmt: skip
    assert shape(parsed) == [
        ("heading", "Top"),
        ("paragraph", "One\ntwo"),
        ("list_item", "3. three"),
        ("list_item", "inner"),
        ("list_item", "4. four"),
        ("code", "a\n  b"),
        ("quote", "Said"),
        ("caption", "Cap"),
        ("table", "A | 1\nA | 2"),
        ("caption", "Fig"),
    ]
    assert next(e.language for e in parsed.elements if e.kind == "code") == "go"


def test_html_in_a_declared_charset_is_decoded():
    content = '<meta charset="iso-8859-2"><p>Łódź</p>'.encode("iso-8859-2")
    assert shape(read(content, "text/html")) == [("paragraph", "Łódź")]


def test_a_table_that_only_arranges_a_page_is_not_a_table():
    assert shape(read("<table><tr><td><h1>A</h1><p>b</p></td></tr></table>", "text/html")) == [
        ("heading", "A"),
        ("paragraph", "b"),
    ]


def test_plain_text_has_paragraphs_lists_and_marked_headings():
    text = "Title\n=====\n\nThis is a hard-wrapped paragraph that goes on over the\nend of its first line, with an exam-\nple of hyphenation.\n\n- one\n- two\n  more\n\n1.2 Numbered part\n\nSHOUTED\n\nline a\nline b\n"  # noqa: E501
    parsed = read(text, "text/plain")
    assert shape(parsed) == [
        ("heading", "Title"),
        (
            "paragraph",
            "This is a hard-wrapped paragraph that goes on over the end of its first line, with an example of hyphenation.",  # noqa: E501  # one document
        ),
        ("list_item", "one"),
        ("list_item", "two more"),
        ("heading", "1.2 Numbered part"),
        ("heading", "SHOUTED"),
        ("paragraph", "line a\nline b"),
    ]
    assert [e.level for e in parsed.elements if e.kind == "heading"] == [1, 2, 1]


def test_form_feeds_are_pages():
    parsed = read("first\fsecond", "text/plain")
    assert [(e.text, e.page) for e in parsed.elements] == [("first", 1), ("second", 2)]
    assert parsed.pages == 2


@pytest.mark.parametrize(
    ("text", "media_type", "expected"),
    [
        ("a,b\n1,\"x, y\"\n", "text/csv", "a | b\n1 | x, y"),
        ("a;b\n1,5;2\n", "text/csv", "a | b\n1,5 | 2"),
        ("a\tb\n1\t2\n", "text/tab-separated-values", "a | b\n1 | 2"),
        ("a,b\n\n1,\"line\nbreak\"\n", "text/csv", "a | b\n1 | line break"),
    ],
)  # fmt: skip
def test_delimited_text_is_one_table(text, media_type, expected):
    assert shape(read(text, media_type)) == [("table", expected)]


def test_the_first_row_of_a_csv_file_is_a_header_when_it_reads_as_one():
    assert "<th>a</th>" in read("a,b\n1,2\n", "text/csv").elements[0].html
    assert "<th>" not in read("1,2\n3,4\n", "text/csv").elements[0].html


def test_json_values_keep_the_names_that_lead_to_them():
    value = {"name": "x", "nested": {"a": [1, 2], "b": {"c": True}}, "list": [{"k": "v"}, {"k": "w"}]}
    assert shape(read(json.dumps(value), "application/json")) == [
        ("paragraph", "name: x"),
        ("heading", "nested"),
        ("paragraph", "a: 1, 2\nb.c: true"),
        ("heading", "list"),
        ("paragraph", "k: v"),
        ("paragraph", "k: w"),
    ]
    assert shape(read('{"a": 1}\n{"a": 2}\n', "application/x-ndjson")) == [("paragraph", "a: 1"), ("paragraph", "a: 2")]


@pytest.mark.parametrize("bad", ["{", '{"a": 1} x', "[" * 100_000])
def test_broken_json_is_damaged(bad):
    with pytest.raises(Damaged):
        read(bad, "application/json")


def test_a_notebook_has_text_code_and_output():
    cells = [
        {"cell_type": "markdown", "source": ["# Plot\n", "Text"]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"text": "1\n"}]},
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"language": "python"}}}
    parsed = read(json.dumps(notebook), "application/x-ipynb+json")
    assert shape(parsed) == [("heading", "Plot"), ("paragraph", "Text"), ("code", "print(1)"), ("code", "1")]
    assert parsed.elements[2].language == "python"


def mail() -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Änne <a@example.com>"
    message["To"] = "b@example.com"
    message["Subject"] = "Grüße"
    message["Date"] = "Fri, 01 Mar 2024 12:00:00 +0100"
    message.set_content("plain body\n\n> quoted line\n")
    message.add_alternative("<p>rich <b>body</b></p><p>quoted line</p>", subtype="html")
    message.add_attachment("note text", filename="note.txt")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="pdf", filename="scan.pdf")
    return message


def test_a_mail_has_headers_body_and_a_list_of_attachments():
    parsed = read(mail().as_bytes(), "message/rfc822")
    assert parsed.title == "Grüße"
    assert shape(parsed) == [
        ("title", "Grüße"),
        ("header", "From: Änne <a@example.com>"),
        ("header", "To: b@example.com"),
        ("header", "Date: Fri, 01 Mar 2024 12:00:00 +0100"),
        ("paragraph", "rich body"),
        ("paragraph", "quoted line"),
        ("list_item", "Attachment: note.txt (text/plain, 11 bytes)"),
        ("paragraph", "note text"),
        ("list_item", "Attachment: scan.pdf (application/pdf, 2 bytes)"),
    ]
    assert parsed.metadata["created"] == "2024-03-01T11:00:00+00:00"
    assert parsed.metadata["author"] == "Änne <a@example.com>"
    assert parsed.metadata["attachments"] == ["note.txt", "scan.pdf"]


def test_quoted_lines_of_a_plain_mail_are_quotes():
    parsed = read("From: a@b.c\nSubject: s\n\nMy answer.\n\n> Your question.\n", "message/rfc822")
    assert shape(parsed)[-2:] == [("paragraph", "My answer."), ("quote", "Your question.")]


def test_a_mail_in_an_unknown_charset_and_with_broken_headers_is_read():
    raw = (
        b"From: =?bad?q?x?= <a@b.c>\nSubject: =?utf-8?b?!!!?=\nContent-Type: text/plain; charset=klingon\n\nq\xe4pla\n"
    )
    assert "pla" in shape(read(raw, "message/rfc822"))[-1][1]


def test_an_encrypted_mail_is_reported_as_such():
    raw = b"From: a@b.c\nSubject: s\nContent-Type: application/pkcs7-mime\n\nMIIB\n"
    with pytest.raises(Encrypted):
        read(raw, "message/rfc822")


def test_a_mailbox_has_a_heading_for_every_mail():
    raw = b"From a@b Mon Jan 1\nFrom: a@b.c\nSubject: One\n\nFirst\n\nFrom a@b Mon Jan 1\nFrom: a@b.c\nSubject: Two\n\nSecond\n"  # noqa: E501  # one document
    assert [text for kind, text in shape(read(raw, "application/mbox")) if kind == "heading"] == ["One", "Two"]


XML_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9))
    + "]><l>&j;</l>"
)


def test_xml_entities_that_multiply_are_refused():
    with pytest.raises(ArchiveBomb, match="multiply"):
        read(XML_BOMB, "application/xml")


def test_external_xml_entities_are_not_fetched(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    text = f'<!DOCTYPE r [<!ENTITY x SYSTEM "{secret.as_uri()}">]><r><p>before &x; after</p></r>'
    assert shape(read(text, "application/xml")) == [("paragraph", "before after")]


def test_xml_with_known_names_has_structure_and_other_leaves_keep_their_names():
    text = (
        "<article><front><article-title>On fog</article-title></front><body><sec><title>Start</title><p>Some <i>text</i>.</p>"  # noqa: E501  # one document
        "<list><list-item><p>item</p></list-item></list></sec></body><record><price>7</price><unit>kg</unit></record></article>"
    )
    parsed = read(text, "application/xml")
    assert parsed.title == "On fog"
    assert ("heading", "Start") in shape(parsed)
    assert ("paragraph", "Some text.") in shape(parsed)
    assert ("list_item", "item") in shape(parsed) or ("paragraph", "item") in shape(parsed)
    assert shape(parsed)[-1] == ("paragraph", "price: 7\nunit: kg")


def test_malformed_xml_is_damaged():
    with pytest.raises(Damaged, match="well-formed"):
        read("<?xml version='1.0'?><a><b></a>", "application/xml")


def test_restructured_text_has_structure_and_includes_no_files(tmp_path):
    (tmp_path / "x.txt").write_text("the secret")
    text = f"Top\n===\n\nPara.\n\nSub\n---\n\n#. one\n#. two\n\n.. code-block:: go\n\n   x := 1\n\n.. include:: {tmp_path}/x.txt\n\n=  =\na  b\n=  =\n1  2\n=  =\n"  # noqa: E501
    parsed = read(text, "text/x-rst")
    assert parsed.title == "Top"
    assert "secret" not in str(parsed)
    assert ("list_item", "2. two") in shape(parsed)
    assert Element("code", "x := 1", language="go") in parsed.elements
    assert ("table", "a | b\n1 | 2") in shape(parsed)


@pytest.mark.parametrize(
    ("media_type", "text"),
    [
        ("text/org", "#+TITLE: T\n* Top :tag:\nSome *bold* text\nwrapped.\n- item\n#+BEGIN_SRC go\nx\n#+END_SRC\n| a | b |\n|---+---|\n| 1 | 2 |\n"),  # noqa: E501  # one document
        ("text/asciidoc", "= T\n\n== Top\n\nSome *bold* text\nwrapped.\n\n* item\n\n----\nx\n----\n\n|===\n|a |b\n|1 |2\n|===\n"),  # noqa: E501  # one document
        ("text/x-mediawiki", "= Top =\nSome '''bold''' text\nwrapped.\n\n* item\n<syntaxhighlight lang=\"go\">\nx\n</syntaxhighlight>\n{|\n! a !! b\n|-\n| 1 || 2\n|}\n"),  # noqa: E501  # one document
    ],
    ids=["org", "asciidoc", "mediawiki"],
)  # fmt: skip
def test_light_markup_keeps_its_structure(media_type, text):
    found = shape(read(text, media_type))
    assert ("heading", "Top") in found
    assert ("paragraph", "Some bold text wrapped.") in found
    assert ("list_item", "item") in found
    assert ("code", "x") in found
    assert ("table", "a | b\n1 | 2") in found


def test_latex_keeps_sections_lists_tables_and_formulas():
    text = r"""\documentclass{article}\title{On \emph{fog}}\author{Ann \and Ben}% comment
\begin{document}\maketitle
\section{Start} Text with $x^2$ and caf\'e~\cite{a}.

\begin{itemize}\item one \item two\end{itemize}
\begin{table}\caption{Cap}\begin{tabular}{ll}a & b\\ \hline 1 & 2\end{tabular}\end{table}
\begin{verbatim}
raw \code
\end{verbatim}
\end{document}"""
    parsed = read(text, "application/x-tex")
    assert parsed.title == "On fog"
    assert parsed.metadata["author"].startswith("Ann")
    assert shape(parsed)[1:] == [
        ("heading", "Start"),
        ("paragraph", "Text with $x^2$ and café ."),
        ("list_item", "one"),
        ("list_item", "two"),
        ("caption", "Cap"),
        ("table", "a | b\n1 | 2"),
        ("code", "raw \\code"),
    ]


def test_rtf_keeps_headings_tables_and_properties():
    text = (
        r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\stylesheet{\s1 heading 1;}}{\info{\title Letter}{\author Ann}"
        r"{\creatim\yr2024\mo3\dy1}}\pard\s1 Top\par\pard Caf\'e9 \u8364?{\*\hidden x}\par"
        r"\trowd\pard\intbl a\cell b\cell\row\trowd\intbl 1\cell 2\cell\row\pard End\par}"
    )
    parsed = read(text, "application/rtf")
    assert parsed.title == "Letter"
    assert parsed.metadata == {"author": "Ann", "created": "2024-03-01T00:00:00"}
    assert shape(parsed) == [
        ("heading", "Top"),
        ("paragraph", "Café €"),
        ("table", "a | b\n1 | 2"),
        ("paragraph", "End"),
    ]


def test_subtitles_and_calendars_are_read():
    assert shape(read("1\n00:00:01,000 --> 00:00:02,000\n<i>Hello</i>\nthere.\n\n2\n00:00:03,000 --> 00:00:04,000\nBye.\n", "application/x-subrip")) == [  # noqa: E501  # one document
        ("paragraph", "Hello there. Bye.")
    ]  # fmt: skip
    assert shape(read("BEGIN:VEVENT\nSUMMARY:Meet\\, eat\nUID:1\nEND:VEVENT\n", "text/calendar")) == [
        ("paragraph", "Summary: Meet, eat")
    ]


def test_source_code_is_one_element_that_names_its_language():
    assert read("def f():\n\treturn 1\n", "text/x-code-python").elements == (
        Element("code", "def f():\n\treturn 1", language="python"),
    )


def test_a_document_with_more_text_than_allowed_is_refused():
    with pytest.raises(TooLarge, match="max_characters"):
        parse(b"word " * 100, "text/plain", ParsingConfig(workers=1, max_characters=100))


def test_an_unknown_format_is_refused_with_a_reason():
    with pytest.raises(Unsupported, match="recording"):
        read(b"\xff\xfb", "audio/mpeg")


def test_what_a_library_says_of_a_document_it_cannot_read_is_kept(monkeypatch):
    from pipelines.parsing.formats import text

    def broken(*_: object) -> Parsed:
        raise KeyError("no such part")

    monkeypatch.setattr(text, "parse", broken)
    with pytest.raises(Unreadable, match=r"KeyError.*no such part"):
        read("x", "text/plain")
