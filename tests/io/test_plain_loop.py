"""The fast reader of STAR loops agrees with the general one or declines."""

from pathlib import Path

import pytest

from opustomo.io.ctf_tables import read_plain_loop, read_plain_numbers
from opustomo.io.star import read_blocks

LOOP = "# made by hand\n\ndata_images\n\nloop_\n_rlnA #1\n_rlnB #2\n# between\n  1.50 x/y.mrc\n\n2\tC:\\z  \n"


@pytest.mark.parametrize("name", ["one_loop_16", "relion30_origins_6", "warp_relion30_1399"])
def test_shared_tables(shared_data: Path, name: str) -> None:
    path = shared_data / "star" / f"{name}.star"
    (table,) = read_blocks(path).values()
    plain = read_plain_loop(path)
    assert plain == {column: list(table[column]) for column in table}  # type: ignore[index]


def test_plain_text(tmp_path: Path) -> None:
    for text in (LOOP, LOOP.replace("\n", "\r\n")):
        (tmp_path / "t.star").write_bytes(text.encode())
        assert read_plain_loop(tmp_path / "t.star") == {"rlnA": ["1.50", "2"], "rlnB": ["x/y.mrc", "C:\\z"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data_images\n",
        "data_a\nloop_\n_rlnA\n",
        "data_a\n_rlnA 1\n",
        LOOP + "data_other\n\nloop_\n_rlnC\n1\n",
        LOOP + "data_other\n_rlnC 1\n",
        LOOP + "3\n",
        LOOP + "'a b' 3\n",
        LOOP + '"a" 3\n',
        LOOP + "3 4 # comment\n",
        LOOP + "3 4#5\n",
        LOOP + "3 #4\n",
        LOOP.replace("rlnB", "rlnA"),
    ],
)
def test_anything_else_is_left_to_the_general_reader(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.star").write_text(text)
    assert read_plain_loop(tmp_path / "t.star") is None
    assert read_plain_loop(tmp_path / "absent.star") is None


NUMBERS = LOOP.replace("x/y.mrc", "-3e2").replace("C:\\z", ".5")


def test_numbers(tmp_path: Path) -> None:
    for text in (NUMBERS, NUMBERS.replace("\n", "\r\n")):
        (tmp_path / "t.star").write_bytes(text.encode())
        found = read_plain_numbers(tmp_path / "t.star")
        assert found is not None
        assert {name: values.tolist() for name, values in found.items()} == {"rlnA": [1.5, 2.0], "rlnB": [-300.0, 0.5]}


@pytest.mark.parametrize(
    "text",
    [
        LOOP,
        NUMBERS.replace("-3e2", "nan"),
        NUMBERS.replace("-3e2", "-inf"),
        NUMBERS.replace("-3e2", "inf").replace("1.50", "-inf"),
        NUMBERS.replace("-3e2", ""),
        NUMBERS + "3\n4 5 6\n",
        NUMBERS + "'3' 4\n",
        NUMBERS + "3 4 # comment\n",
        NUMBERS + "data_other\n\nloop_\n_rlnC\n1\n",
        NUMBERS.replace("rlnB", "rlnA"),
        NUMBERS.replace("data_images\n\nloop_", "data_images"),
        "data_a\nloop_\n1 2\n3 4\n",
        "",
    ],
)
def test_anything_but_numbers_is_left_to_the_other_readers(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.star").write_text(text)
    assert read_plain_numbers(tmp_path / "t.star") is None
    assert read_plain_numbers(tmp_path / "absent.star") is None
