"""Any file of rows, whatever its name: what it is, is seen in its content; what is broken is listed or
refused.
"""

import csv
import gzip
import io
import json

import pytest

from valign.data.readers import read
from valign.errors import DataError

ROWS = [{"prompt": f"q{i}, with a comma", "completion": f'a "{i}"\nsecond line \u2028 é'} for i in range(5)]


def as_csv(delimiter):
    out = io.StringIO()
    table = csv.DictWriter(out, ["prompt", "completion"], delimiter=delimiter)
    table.writeheader()
    table.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


CONTENT = {
    "jsonl": lambda: "\n".join(map(json.dumps, ROWS)).encode(),
    "json list": lambda: json.dumps(ROWS).encode(),
    "indented json": lambda: json.dumps(ROWS, indent=2).encode(),
    "wrapped json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "wrapped, indented": lambda: json.dumps({"data": ROWS}, indent=1).encode(),
    "csv": lambda: as_csv(","),
    "tsv": lambda: as_csv("\t"),
    "semicolons": lambda: as_csv(";"),
    "byte order mark": lambda: b"\xef\xbb\xbf" + as_csv(","),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", CONTENT)
def test_every_container_gives_the_same_groups(tmp_path, kind, packed):
    """The name says nothing ("data.txt"): content decides."""
    path = tmp_path / "data.txt"
    content = CONTENT[kind]()
    path.write_bytes(gzip.compress(content) if packed else content)
    data = read(path)
    assert data.format == "prompt_completion" and len(data) == 5 and not data.report.dropped
    assert [(g.prompt[0].content, g.responses[0].text) for g in data] == [tuple(r.values()) for r in ROWS]
    assert data.report.fields == ("prompt", "completion") and data.report.rows == 5


def test_lines_are_those_of_the_file(tmp_path):
    """A CSV record that spans two lines counts from where it begins; blank JSON lines count too."""
    path = tmp_path / "d"
    path.write_bytes(as_csv(","))
    assert read(path).lines == (2, 4, 6, 8, 10)
    path.write_bytes(b"\n\n" + CONTENT["jsonl"]().replace(b"\n", b"\n\n"))
    assert read(path).lines == (3, 5, 7, 9, 11)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"prompt": "q", "comple', "the line ends in the middle of a JSON value"),
        ("{'prompt': 'q'}", "not JSON"),
        ('["q", "a"]', "a line must be a JSON object, not list"),
    ],
)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_broken_line_is_listed_and_the_rest_is_read(tmp_path, bad, reason, at):
    lines = CONTENT["jsonl"]().decode().split("\n")
    lines.insert(at - 1, bad)
    path = tmp_path / "d"
    path.write_text("\n".join(lines), encoding="utf-8")
    if at == 1 and bad.startswith("["):  # a file that begins with a list is one JSON document
        with pytest.raises(DataError, match="d:2: not JSON: Extra data"):
            read(path)
        return
    data = read(path)
    ((line, field, why),) = data.report.dropped
    assert (line, field) == (at, "") and reason in why
    assert len(data) == 5 and data.report.rows == 6


def test_half_a_record_of_a_table_is_listed(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("prompt,completion\nq1,a1\nq2\nq3,a3,extra\nq4,a4\n")
    data = read(path)
    assert [g.responses[0].text for g in data] == ["a1", "a4"]
    assert data.report.dropped == ((3, "", "has 1 of 2 cells"), (4, "", "has 3 of 2 cells"))


def test_structured_cells_of_a_table_are_parsed_and_text_stays_text(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerows([["messages", "note"], [json.dumps(turns), "[1, 2]"]])
    (g,) = read(path)
    assert g.prompt[0].content == "q" and g.meta == {"note": "[1, 2]"}
    path.write_text('prompt,completion\n"[1, 2]",{x}\n')
    (g,) = read(path)
    assert g.prompt[0].content == "[1, 2]" and g.responses[0].text == "{x}"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (POINTER, r"(?s)Git LFS pointer, not the data.*git lfs pull"),
        (gzip.compress(POINTER, mtime=0), "Git LFS pointer"),
        (CONTENT["jsonl"]() + b'\n{"prompt": "\xff"}', r":6: byte 13 of the line \(0xff\) is not UTF-8"),
        ("prompt,completion\nq,é".encode("latin-1"), r":2: byte 3 of the line \(0xe9\)"),
        (json.dumps(ROWS).encode("utf-16"), "UTF-16, not UTF-8"),
        (json.dumps(ROWS)[:-20].encode(), "(middle of a JSON value|not JSON)"),
        (gzip.compress(CONTENT["jsonl"](), mtime=0)[:-30], "the gzip file is broken"),
        (b"\x1f\x8b" + b"nonsense", "the gzip file is broken"),
        (b"PAR1" + b"x" * 30, "not a whole Parquet file"),
        (b'[1, 2, "three"]', "row 1 is int, not an object"),
        (b"prompt,prompt\na,b\n", "two columns have one name"),
        (b'prompt,completion\n"never closed,x\n', "not a table"),
        (b'{"promt": "q"}\n{"promt": "r"}\n', "(?s)the fields promt fit no known format.*format="),
        (b"only prose, in a file\nand more, of it\n", "fit no known format"),
        (b"{broken\n{broken", "none of 2 rows could be read"),
    ],
    # Names from the bytes would carry a clock (gzip, Parquet) and differ between the workers of one run.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
def test_files_that_cannot_be_read_say_why(tmp_path, content, says):
    path = tmp_path / "data.file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read(path)
    assert "data.file" in str(error.value)


def test_missing_files_and_plain_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        read(tmp_path / "nowhere.jsonl")
    (tmp_path / "one.jsonl").touch()
    with pytest.raises(DataError, match=r"(?s)this is a folder.*one\.jsonl"):
        read(tmp_path)


def test_a_folder_saved_by_datasets_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    data = read(tmp_path / "saved")
    assert len(data) == 5 and data.format == "prompt_completion" and len(data.sha256) == 64


def test_a_limit_does_not_read_a_whole_file(tmp_path):
    """The broken end of a long file is met only by those who read that far."""
    path = tmp_path / "d"
    path.write_bytes((CONTENT["jsonl"]() + b"\n") * 40 + b'{"prompt": "\xff"}')
    assert len(read(path, limit=30)) == 30
    with pytest.raises(DataError, match=":201: byte 13"):
        read(path)
