"""Selection of the rows of one tomogram for all spellings of its name."""

import pytest

from opustomo.errors import UserError
from opustomo.io.tomograms import base_name, rows_of_tomogram, tomogram_stem


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("TS_01", "TS_01"),
        ("/a b/TS_01.mrc.tomostar", "TS_01"),
        (r"F:\frames\TS_01.mrc_15.00Apx.mrc", "TS_01"),
        ("tomo_ts01.mrc_15.00Apx.mrc", "tomo_ts01"),
        ("TS_01_10.00Apx.mrc", "TS_01"),
        ("grid_2A.rec", "grid_2A"),
        ("x/y/", "y"),
        (".mrc", ".mrc"),
    ],
)
def test_stems(text: str, stem: str) -> None:
    assert tomogram_stem(text) == stem


def test_only_the_tomogram_asked_for() -> None:
    names = ["TS_1.mrc", "TS_10.mrc", "TS_1.mrc", "TS_11", "a/TS_2.tomostar", r"b\TS_3.rec"]
    for wanted in ("TS_1", "TS_1.mrc", "TS_1.tomostar", "/data/TS_1.rec"):
        assert rows_of_tomogram(names, wanted, "x").tolist() == [0, 2]
    assert rows_of_tomogram(names, "TS_11", "x").tolist() == [3]
    assert rows_of_tomogram(names, "TS_2", "x").tolist() == [4]
    assert rows_of_tomogram(names, "TS_3", "x").tolist() == [5]
    assert base_name(names[5]) == "TS_3.rec"


def test_what_does_not_fit() -> None:
    with pytest.raises(
        UserError, match="no particle belongs to the tomogram 'TS'; the table has 2 tomograms: TS_1, TS_2"
    ):
        rows_of_tomogram(["TS_1", "TS_2", "TS_1"], "TS", "p.star")
    with pytest.raises(UserError, match=r"matches several tomograms, a/TS_1\.mrc, b/TS_1\.mrc"):
        rows_of_tomogram(["a/TS_1.mrc", "b/TS_1.mrc"], "TS_1", "p.star")
    assert rows_of_tomogram(["a/TS_1.mrc", "b/TS_1.mrc"], "b/TS_1.mrc", "p.star").tolist() == [1]
