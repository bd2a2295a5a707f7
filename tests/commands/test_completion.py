"""Completion by the Tab key, requested as the shell requests it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def completions(line: str, folder: Path) -> list[str]:
    """Return the completions of the program at the end of a line."""
    program = {"dsd": "opustomo", "dsdsh": "analysis_scripts"}[line.split()[0]]
    answer = folder / "answer"
    asked = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash", "COMP_TYPE": "9",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", program], env=os.environ | asked, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done.stderr
    return [word.strip() for word in answer.read_text().split("\n")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run/z.0.pkl", "run/z.10.pkl", "run/z.9.pkl", "run/analyze.10/kmeans4/labels.pkl", "parts.star"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("dsdsh val", ["validate"]),
        ("dsd train", ["train_tomo", "train_tomo_hvd", "train_tomo_dist"]),
        ("dsdsh validate run ", ["latest", "0", "9", "10"]),
        ("dsdsh validate run latest ", ["4"]),
        ("dsdsh eval_vol run 10 k", ["kmeans"]),
        ("dsdsh validate run 10 4 --no-l", ["--no-likelihood"]),
        ("dsdsh parse_pose pa", ["parts.star"]),
    ],
)
def test_completions(line: str, wanted: list[str], folder: Path) -> None:
    assert [word for word in completions(line, folder) if word] == wanted


def test_completion_and_help_import_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from opustomo.commands.completion import completion_parser\n"
        "from opustomo.commands.registry import DSD, DSDSH, load_command\n"
        "from opustomo.main import main\n"
        "for program, commands in (('dsd', DSD), ('dsdsh', DSDSH)):\n"
        "    for name in commands:\n"
        "        completion_parser(program, commands, [program, name])\n"
        "assert main(['-h']) == 0\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'umap', 'matplotlib', 'scipy', 'healpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
