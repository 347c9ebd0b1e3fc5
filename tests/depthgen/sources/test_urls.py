"""Reading lists of URLs: the formats, the columns, and what a broken list says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.errors import StageError
from depthgen.sources.urls import read_urls
from depthgen.sources.web.search import Found

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = "http://a.example/1.jpg", "https://b.example/2.png?x=1&y=2", "http://c.example/3"


def listed(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def urls(path: Path, column: str = "url") -> list[str]:
    return [each.url for each in read_urls(path, column)]


def complaint(path: Path, column: str = "url") -> str:
    with pytest.raises(StageError) as caught:
        read_urls(path, column)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_text_file_is_one_url_a_line_without_blank_lines_and_remarks(tmp_path: Path) -> None:
    content = f"# a list\n{A}\n\n   \n  {B}  \n  # and\n{C}#part"
    assert urls(listed(tmp_path, "l.txt", content)) == [A, B, f"{C}#part"]


def test_a_csv_gives_page_and_title_from_their_columns(tmp_path: Path) -> None:
    path = listed(tmp_path, "l.csv", f"caption,url,width,page_url\na cat,{A},10,http://p\n,{B},,\n")
    assert read_urls(path) == [Found(A, "http://p", "a cat"), Found(B)]


@pytest.mark.parametrize("title", ["title", "caption", "text", "alt", "TEXT"])
@pytest.mark.parametrize("page", ["page_url", "page", "source_page", " Page "])
def test_the_known_names_of_page_and_title_are_found(tmp_path: Path, page: str, title: str) -> None:
    path = listed(tmp_path, "l.tsv", f"URL\t{page}\t{title}\n{A}\tp\tt\n")
    assert read_urls(path) == [Found(A, "p", "t")]


def test_the_first_of_several_title_columns_is_taken(tmp_path: Path) -> None:
    path = listed(tmp_path, "l.csv", f"alt,url,title\nless,{A},more\n")
    assert read_urls(path)[0].title == "more"


def test_the_url_column_can_be_named_in_any_case(tmp_path: Path) -> None:
    path = listed(tmp_path, "l.csv", f"url,Image_Link\n{A},{B}\n")
    assert urls(path, "image_link") == [B]


def test_a_quoted_field_may_hold_commas_quotes_and_newlines(tmp_path: Path) -> None:
    path = listed(tmp_path, "l.csv", f'url,caption\r\n"{A}","a ""cat"",\r\nasleep"\r\n{B},b\r\n')
    assert read_urls(path) == [Found(A, "", 'a "cat",\r\nasleep'), Found(B, "", "b")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", f"{A}\n{B}\n"),
        ("l.csv", f"url\n{A}\n{B}\n"),
        ("l.tsv", f"url\tx\n{A}\t1\n{B}\t2\n"),
        ("l.jsonl", f'{{"url": "{A}"}}\n{{"url": "{B}"}}\n'),
        ("l.ndjson", f'{{"url": "{A}"}}\n\n"{B}"'),
        ("l.json", f'[{{"url": "{A}"}}, "{B}"]'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_format_is_read_with_either_newline_with_or_without_bom_and_packed(
    tmp_path: Path, name: str, content: str, packed: bool, mark: bytes, newline: str
) -> None:
    data = mark + content.replace("\n", newline).encode()
    name = name.upper() if mark else name
    path = listed(
        tmp_path, f"{name}.gz" if packed else name, gzip.compress(data) if packed else data
    )
    assert urls(path) == [A, B]


def test_duplicates_go_the_first_stays_and_the_order_is_kept(tmp_path: Path) -> None:
    path = listed(tmp_path, "l.csv", f"url,title\n{B},first\n{A},\n{B},second\n {A} ,\n{C},\n")
    assert read_urls(path) == [Found(B, "", "first"), Found(A), Found(C)]


def test_rows_without_a_url_are_skipped_and_short_rows_have_empty_cells(tmp_path: Path) -> None:
    table = listed(tmp_path, "l.csv", f"title,url,page\nx,,\n\nonly\n,{A}\n")
    objects = listed(tmp_path, "l.jsonl", f'{{"title": "x"}}\n{{"url": null}}\n{{"url": "{A}"}}\n')
    assert read_urls(table) == read_urls(objects) == [Found(A)]


def test_what_is_no_url_is_handed_on_as_it_stands(tmp_path: Path) -> None:
    assert urls(listed(tmp_path, "l.txt", "not a url\nftp://x/y\n")) == ["not a url", "ftp://x/y"]
    assert urls(listed(tmp_path, "l.jsonl", '{"url": 7}\n')) == ["7"]


def test_a_table_without_a_header_is_read_by_where_its_url_stands(tmp_path: Path) -> None:
    assert urls(listed(tmp_path, "one.csv", f"{A}\n{B}\n")) == [A, B]
    assert urls(listed(tmp_path, "two.tsv", f"a cat\t{A}\na dog\t{B}\n")) == [A, B]


def test_a_table_without_a_header_and_two_urls_a_row_asks_for_one(tmp_path: Path) -> None:
    assert "--url-column" in complaint(listed(tmp_path, "l.csv", f"{A},{B}\n"))


def test_objects_may_have_their_keys_in_any_order(tmp_path: Path) -> None:
    lines = [{"url": A, "text": "a"}, {"TEXT": "b", "URL": B}, {"page": "p", "url": C}]
    path = listed(tmp_path, "l.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    assert read_urls(path) == [Found(A, "", "a"), Found(B, "", "b"), Found(C, "p")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("l.csv", f"link,width\n{A[7:]},1\n"), ("l.jsonl", f'{{"link": "{A}", "width": 1}}\n')],
)
def test_a_missing_column_names_those_there_are_and_the_option(
    tmp_path: Path, name: str, content: str
) -> None:
    said = complaint(listed(tmp_path, name, content))
    assert "'link', 'width'" in said
    assert "--url-column NAME" in said


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.jsonl"])
def test_an_empty_list_says_so(tmp_path: Path, name: str) -> None:
    assert "holds no URL" in complaint(listed(tmp_path, name, "\n\n"))


def test_a_header_alone_holds_no_url(tmp_path: Path) -> None:
    assert "holds no URL" in complaint(listed(tmp_path, "l.csv", "url,title\n"))


def test_a_missing_file_a_folder_and_an_unknown_ending_each_say_so(tmp_path: Path) -> None:
    assert "--from" in complaint(tmp_path / "none.csv")
    assert "folder" in complaint(tmp_path)
    said = complaint(listed(tmp_path, "l.xlsx", b"PK"))
    assert all(each in said for each in (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet"))


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.jsonl"])
def test_bytes_that_are_not_utf_8_are_told_with_their_line(tmp_path: Path, name: str) -> None:
    good = {"l.txt": A, "l.csv": "url,title", "l.jsonl": json.dumps(A)}[name]
    # Far enough down for a reader that looks ahead to have the number of another line.
    content = f"{good}\n".encode() * 400 + "http://é\n".encode("latin-1") + b"http://x\n" * 400
    assert "line 401 " in complaint(listed(tmp_path, name, content))
    assert "line 401 " in complaint(listed(tmp_path, f"{name}.gz", gzip.compress(content)))


def test_a_broken_json_line_is_told_with_its_number(tmp_path: Path) -> None:
    for bad in ('{"url": ', "[" * 100_000, "17"):
        assert "line 3 " in complaint(listed(tmp_path, "l.jsonl", f'"{A}"\n\n{bad}\n"{B}"\n'))


def test_a_json_file_that_is_no_list_says_what_to_write(tmp_path: Path) -> None:
    assert "no list" in complaint(listed(tmp_path, "l.json", f'{{"url": "{A}"}}'))
    assert ".jsonl" in complaint(listed(tmp_path, "l.json", f'{{"url": "{A}"}}\n{{"url": "{B}"}}'))
    assert "entry 2 " in complaint(listed(tmp_path, "l.json", f'["{A}", 7]'))


def test_a_quote_that_never_ends_is_told_with_a_line(tmp_path: Path) -> None:
    content = f'url,title\n{A},a\n{B},"b\n' + f"{C},{'c' * 100}\n" * 2000
    assert "quotes" in complaint(listed(tmp_path, "l.csv", content))


def test_a_damaged_gzip_file_says_so(tmp_path: Path) -> None:
    packed = gzip.compress("".join(f"{A}/{i}\n" for i in range(999)).encode(), mtime=0)
    broken = packed[:200] + bytes(byte ^ 255 for byte in packed[200:400]) + packed[400:]
    for content in (packed[:-20], b"plain text\n", broken):
        assert "gzip" in complaint(listed(tmp_path, "l.txt.gz", content))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in complaint(listed(tmp_path, "l.parquet", b"PAR1"))


def test_parquet_is_read_like_a_table(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="parquet lists need pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "l.parquet"
    table = {
        "TEXT": ["a", None, "c"],
        "hash": [1, 2, 3],
        "URL": [A, None, B],
        "page": ["p", "", None],
    }
    parquet.write_table(arrow.table(table), path)
    assert read_urls(path) == [Found(A, "p", "a"), Found(B, "", "c")]
    assert "'TEXT', 'hash', 'URL', 'page'" in complaint(path, "link")
    assert "no parquet" in complaint(listed(tmp_path, "x.parquet", b"PAR1 but no more"))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=20))
def test_what_the_csv_writer_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    rows = [("x", A, "y"), *rows]
    stream = io.StringIO()
    csv.writer(stream).writerows([("title", "url", "page_url"), *rows])
    path = listed(tmp_path_factory.mktemp("list"), "l.csv", stream.getvalue())
    expected: dict[str, Found] = {}
    for title, url, page in rows:
        if url.strip():
            found = Found(url.strip(), page.strip(), title.strip())
            expected.setdefault(found.url, found)
    assert read_urls(path) == list(expected.values())


@pytest.mark.parametrize(("name", "apart"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ",")])
def test_cells_are_apart_by_what_the_first_line_says(tmp_path: Path, name: str, apart: str) -> None:
    path = tmp_path / name
    path.write_text(f"caption{apart}url\na cat{apart}http://x.example/1.png\n")
    assert read_urls(path) == [Found("http://x.example/1.png", "", "a cat")]
