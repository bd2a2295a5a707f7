"""Files appear complete or not at all."""

from pathlib import Path

import pytest

from opustomo.io.atomic import atomic_path, remove_leftovers


def test_file_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "new folder" / "a b.mrc"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.suffix == ".mrc"
        temporary.write_text("whole")
        assert not final.exists()
    assert final.read_text() == "whole"
    assert list(final.parent.iterdir()) == [final]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "z.pkl"
    final.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(final) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_folders_too(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "set") as temporary:
        temporary.mkdir()
        (temporary / "x").write_text("1")
    assert (tmp_path / "set" / "x").read_text() == "1"
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "other") as temporary:
        temporary.mkdir()
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_error_names_the_final_file(tmp_path: Path) -> None:
    final = tmp_path / "z.pkl"
    with pytest.raises(OSError) as caught, atomic_path(final) as temporary:
        (temporary / "x").write_text("a folder that is not there")
    assert caught.value.filename == str(final / "x")
    for failure in (OSError(28, "No space left on device"), OSError(28, "No space left on device", str(tmp_path))):
        with pytest.raises(OSError) as caught, atomic_path(final) as temporary:
            failure.filename = failure.filename and str(temporary)
            raise failure
        assert caught.value.filename == str(final)


def test_leftovers_of_a_killed_program_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("z.0.pkl", ".hidden", "tmp.mrc", ".state.tmp.pkl")]
    for path in kept:
        path.write_text("mine")
    context = atomic_path(tmp_path / "state.pkl")
    temporary = context.__enter__()  # and never left
    temporary.write_text("half")
    assert remove_leftovers(tmp_path) == [temporary]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
