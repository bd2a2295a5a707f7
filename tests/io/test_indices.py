"""Index files in all formats, and messages about invalid ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.indices import read_indices
from opustomo.io.pickles import dump_pickle

WANTED = [7, 0, 3]


def test_every_form_gives_the_same_indices(tmp_path: Path) -> None:
    dump_pickle(tmp_path / "a.pkl", np.array(WANTED))
    (tmp_path / "a.txt").write_text("# chosen by hand\n7\n0\n3\n")
    (tmp_path / "a.json").write_text("[7, 0, 3]")
    (tmp_path / "b.json").write_text(json.dumps({"particles": 10, "indices": WANTED, "run": "my run", "epoch": 4}))
    for name in ("a.pkl", "a.txt", "a.json", "b.json"):
        indices = read_indices(tmp_path / name, 10)
        assert indices.tolist() == WANTED and indices.dtype == np.int64, name


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not a JSON file of indices"),
        ('{"particles": 11, "indices": [1]}', "made for 11 particles, but the table has 10"),
        ('{"particles": 10}', "not a list of integers"),
        ('["a", "b"]', "not a list of integers"),
        ("[[1, 2], [3]]", "not a list of integers"),
        ("[]", "not a list of integers"),
        ("[1.5]", "not a list of integers"),
        ("[1, 10]", "indices range from 1 to 10"),
        ("[1, -1]", "indices range from -1 to 1"),
        ("[1, 2, 1]", "twice"),
        ("true", "not a list of integers"),
    ],
)
def test_bad_json_is_reported(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=part):
        read_indices(path, 10)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json"):
        read_indices(tmp_path / "gone.json", 10)
