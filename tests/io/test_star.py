"""STAR text: every value is restored with the characters with which it was written."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.errors import UserError
from opustomo.io.star import read_blocks, write_blocks

AWKWARD = """\
# version 30001
data_general
_rlnA "C:\\x y\\z" # a comment
_rlnB ''
_rlnC it's

data_My.name
loop_
_rlnImageName #1
_rlnAngleRot
_rlnTag #3
data_set/a.mrc 1.70500 001

'b c.mrc' nan "it's #1"
C:\\d\\e#2.mrc 1e3 ""
f'g.mrc   +2.0  <NA> # trailing
"h" -0 'say "x"'
# between
_ä 1 NaN

data_empty
loop_
_rlnX #1
_rlnY #2

data_last
loop_
_rlnX
7
"""


def lists(block: object) -> object:
    return block.to_numpy().tolist() if isinstance(block, pd.DataFrame) else block


def test_awkward_values(tmp_path: Path) -> None:
    path = tmp_path / "a b.star"
    path.write_text(AWKWARD, encoding="utf-8")
    blocks = read_blocks(path)
    assert list(blocks) == ["general", "My.name", "empty", "last"]
    assert blocks["general"] == {"rlnA": "C:\\x y\\z", "rlnB": "", "rlnC": "it's"}
    assert lists(blocks["My.name"]) == [
        ["data_set/a.mrc", "1.70500", "001"],
        ["b c.mrc", "nan", "it's #1"],
        ["C:\\d\\e#2.mrc", "1e3", ""],
        ["f'g.mrc", "+2.0", "<NA>"],
        ["h", "-0", 'say "x"'],
        ["_ä", "1", "NaN"],
    ]
    assert list(blocks["empty"]) == ["rlnX", "rlnY"]
    assert len(blocks["empty"]) == 0
    assert lists(blocks["last"]) == [["7"]]
    write_blocks(tmp_path / "again.star", blocks)
    again = read_blocks(tmp_path / "again.star")
    assert list(again) == list(blocks)
    for name in blocks:
        assert list(again[name]) == list(blocks[name])
        assert lists(again[name]) == lists(blocks[name])


def test_values_are_written_as_other_programs_read_them(tmp_path: Path) -> None:
    """Only values with blanks and empty strings are quoted."""
    path = tmp_path / "o.star"
    row = ["a b", "", "001", "C:\\x\\y.mrc", "it's"]
    write_blocks(path, {"x": pd.DataFrame([row], columns=list("abcde"), dtype=object), "g": {"k": "a b", "e": ""}})
    lines = path.read_text().splitlines()
    assert '"a b"\t""\t001\tC:\\x\\y.mrc\tit\'s' in lines
    assert '_k\t\t\t"a b"' in lines
    assert '_e\t\t\t""' in lines


# STAR has no escape character: a value cannot hold both kinds of quotes, or a line break
VALUE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Zl", "Zp"]), max_size=12).filter(
    lambda text: not ("'" in text and '"' in text)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=5), VALUE)
def test_any_value_round_trips(tmp_path: Path, rows: list[tuple[str, str, str]], single: str) -> None:
    path = tmp_path / "any.star"
    table = pd.DataFrame(rows, columns=["rlnA", "rlnB", "rlnC"], dtype=object)
    write_blocks(path, {"one": {"rlnS": single}, "": table, "after": table})
    blocks = read_blocks(path)
    assert blocks["one"] == {"rlnS": single}
    assert lists(blocks[""]) == lists(blocks["after"]) == [list(row) for row in rows]


@pytest.mark.parametrize(
    "name",
    [
        "one_loop_16",
        "relion30_origins_6",
        "relion31_57",
        "relion31_6optics",
        "relion4_300",
        "relion5_3d_5",
        "warp_TS_1_points",
        "warp_relion30_1399",
    ],
)
def test_shared_tables_keep_every_token(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "star" / f"{name}.star"
    write_blocks(tmp_path / "o.star", read_blocks(source))

    def tokens(path: Path) -> list[list[str]]:
        lines = [line.split() for line in path.read_text().splitlines()]
        kept = [line for line in lines if line and not line[0].startswith("#")]
        return [line[:1] if line[0].startswith("_rln") else line for line in kept]

    # a column name may come with or without its number; nothing else may differ
    def named(lines: list[list[str]]) -> list[list[str]]:
        return [line[:1] if line[0].startswith("_") and len(line) <= 2 else line for line in lines]

    assert named(tokens(tmp_path / "o.star")) == named(tokens(source))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty. Give a STAR file"),
        (" \n\n", "is empty. Give a STAR file"),
        ("\ufeff<?xml version='1.0'?>\n<ParticleList/>\n", "an XML file.*dsdsh convert_pytom_to_star"),
        ("hello\n", "no data_ block"),
        ("data_\n", "not a readable STAR"),
        ("data_\nloop_\n_a\n_b\n1 2\n3\n", "row 2 of data_ has 1 values, but there are 2 columns"),
        ("data_\nloop_\n_a\n_b\n1 2 3\n4 5 6\n", "row 1 of data_ has 3 values"),
        ("data_\nloop_\n_a\n_b\n\n1 2\n# x\n3 4 5\n", "row 2 of data_ has 3 values"),
        ("data_\nloop_\n_a\n_a\n1 2\n", "has the column \\S+ twice"),
        ("data_\n_a 1\n_a 2\n", "has the column \\S+ twice"),
        ("data_\n_a 1\nb 2\n", "line 3 of data_ is outside a loop"),
        ("data_\nloop_\n1 2\n", "loop of data_ has no columns"),
        ("# x\ndata_x\n\n1 2\n", "line 4 is neither loop_ nor a column"),
        ("data_\n\x00\n", "not a text file"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.star"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as mistake:
        read_blocks(path)
    assert "bad.star" in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_folders_and_compressed_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_blocks(tmp_path)
    (tmp_path / "z.star").write_bytes(gzip.compress(b"data_\nloop_\n_a\n1\n"))
    with pytest.raises(UserError, match=r"z.star: the file is compressed. Unpack it first"):
        read_blocks(tmp_path / "z.star")


def test_other_encodings(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-8-sig"):
        path = tmp_path / "x.star"
        path.write_bytes("data_\r\nloop_\r\n_rlnA #1\r\nM\u00fcller.mrc\r\n".encode(encoding))
        assert lists(read_blocks(path)[""]) == [["Müller.mrc"]]
    path.write_bytes("data_\nloop_\n_rlnA\nMüller.mrc\n".encode("utf-16"))
    assert lists(read_blocks(path)[""]) == [["Müller.mrc"]]
    path.write_bytes(b"data_\rloop_\r_rlnA\ra.mrc\rb.mrc\r")
    assert lists(read_blocks(path)[""]) == [["a.mrc"], ["b.mrc"]]


ODD = """\
junk before the first block

data_empty

data_job # of a pipeline
_rlnJobTypeLabel   relion.extract   # why
_rlnArgs ""
_rlnMissing
_rlnWords two words

data_
LOOP_
# a comment in the header
_rlnImageName#1

_rlnAngleRot #2
  1@a.mrcs 1

\t2@a.mrcs\t2
data_optics # second name
loop_
_rlnOpticsGroup #1
1
data_
loop_
_rlnB
x"""


def test_odd_files(tmp_path: Path) -> None:
    """Empty blocks, comments, two blocks of one name, an uppercase keyword, no line break at the end."""
    path = tmp_path / "odd.star"
    path.write_text(ODD)
    blocks = read_blocks(path)
    assert list(blocks) == ["empty", "job", "", "optics", "_2"]
    assert blocks["empty"] == {}
    assert blocks["job"] == {
        "rlnJobTypeLabel": "relion.extract",
        "rlnArgs": "",
        "rlnMissing": "",
        "rlnWords": "two words",
    }
    assert list(blocks[""]) == ["rlnImageName", "rlnAngleRot"]
    assert [lists(blocks[name]) for name in ("", "optics", "_2")] == [
        [["1@a.mrcs", "1"], ["2@a.mrcs", "2"]],
        [["1"]],
        [["x"]],
    ]
    write_blocks(path, blocks)
    again = read_blocks(path)
    assert {name: lists(block) for name, block in again.items()} == {name: lists(blocks[name]) for name in blocks}


PLAIN = st.text("abc019._@/-+[],", min_size=1, max_size=8).filter(lambda text: text[0] not in "_")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=4), PLAIN)
def test_the_starfile_library_agrees(tmp_path: Path, rows: list[tuple[str, str]], single: str) -> None:
    path = tmp_path / "s.star"
    table = pd.DataFrame(rows, columns=["rlnA", "rlnB"], dtype=object)
    write_blocks(path, {"g": {"rlnS": single}, "particles": table, "b": table})
    found = starfile.read(path, always_dict=True, parse_as_string=["rlnA", "rlnB", "rlnS"])
    assert found["g"] == {"rlnS": single}
    assert lists(found["particles"]) == lists(found["b"]) == [list(row) for row in rows]
    starfile.write({"g": {"rlnS": single}, "particles": table}, path)
    assert lists(read_blocks(path)["particles"]) == [list(row) for row in rows]


@pytest.mark.slow
def test_400000_particles_are_written_back(tmp_path: Path) -> None:
    row = "-12.345600  101.5 C:\\\\data\\\\TS_01.mrc 'a b' subtomo/TS_01/TS_01_{:07d}.mrc 2\n"
    head = "data_particles\nloop_\n" + "".join(f"_rln{name}\n" for name in "ABCDEF")
    (tmp_path / "big.star").write_text(head + "".join(row.format(index) for index in range(400_000)))
    blocks = read_blocks(tmp_path / "big.star")
    write_blocks(tmp_path / "again.star", blocks)
    assert len(blocks["particles"]) == 400_000
    assert (tmp_path / "again.star").read_text().splitlines()[-2].endswith("399999.mrc\t2")
