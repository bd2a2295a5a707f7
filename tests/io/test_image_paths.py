"""Finding subtomograms and CTF tables."""

from pathlib import Path

import pytest

from opustomo.errors import UserError
from opustomo.io.image_paths import resolve_ctf_tables, resolve_images
from opustomo.io.star_tables import ParticleStar, read_particles


def star_with(tmp_path: Path, *names: str, column: str = "rlnImageName") -> ParticleStar:
    path = tmp_path / "project" / "p.star"
    path.parent.mkdir(exist_ok=True)
    rows = "\n".join(f'"{name}" 0' for name in names)
    path.write_text(f"data_\nloop_\n_{column}\n_rlnAngleRot\n{rows}\n")
    return read_particles(path)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_the_order_of_places(tmp_path: Path) -> None:
    datadir = tmp_path / "data dir"
    star = star_with(tmp_path, "sub/a.mrc")
    beside = touch(tmp_path / "project" / "sub" / "a.mrc")
    assert resolve_images(star, datadir) == resolve_images(star, None) == [beside]
    flat = touch(datadir / "a.mrc")
    assert resolve_images(star, datadir) == [flat]
    full = touch(datadir / "sub" / "a.mrc")
    assert resolve_images(star, str(datadir)) == [full]
    assert resolve_images(star, None) == [beside]


@pytest.mark.parametrize(
    "name", ["F:/frames/sub/x 1.mrc", "F:\\frames\\sub\\x 1.mrc", "/frames/sub/x 1.mrc", "x 1.mrc"]
)
def test_paths_of_other_machines(tmp_path: Path, name: str) -> None:
    found = touch(tmp_path / "data" / "x 1.mrc")
    assert resolve_images(star_with(tmp_path, name), tmp_path / "data") == [found]


def test_relative_windows_and_absolute_paths(tmp_path: Path) -> None:
    beside = touch(tmp_path / "project" / "sub" / "a.mrc")
    assert resolve_images(star_with(tmp_path, "sub\\a.mrc"), None) == [beside]
    elsewhere = touch(tmp_path / "elsewhere" / "b.mrc")
    assert resolve_images(star_with(tmp_path, str(elsewhere)), None) == [elsewhere]
    assert resolve_images(star_with(tmp_path, "../elsewhere/b.mrc"), None)[0].samefile(elsewhere)


def test_names_relative_to_the_folder_of_a_relion_project(tmp_path: Path) -> None:
    found = touch(tmp_path / "Extract" / "job012" / "tomograms" / "a.mrc")
    assert resolve_images(star_with(tmp_path, "Extract/job012/tomograms/a.mrc"), None)[0].samefile(found)
    beside = touch(tmp_path / "project" / "Extract" / "job012" / "tomograms" / "a.mrc")
    assert resolve_images(star_with(tmp_path, "Extract/job012/tomograms/a.mrc"), None) == [beside]


def test_missing_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "project" / "a.mrc")
    star = star_with(tmp_path, "a.mrc", "b.mrc", "a.mrc", "c.mrc")
    with pytest.raises(UserError, match=r"2 of 4 subtomograms are missing, the first is b\.mrc \(row 2\)"):
        resolve_images(star, None)
    with pytest.raises(UserError, match="no column rlnImageName"):
        resolve_images(star_with(tmp_path, "a", column="rlnCoordinateX"), None)


def test_ctf_tables(tmp_path: Path) -> None:
    star = star_with(tmp_path, "c/ts_5.00A_ctf.mrc", column="rlnCtfImage")
    relion = touch(tmp_path / "project" / "c" / "ts_5.00A_ctf.star")
    warp = touch(tmp_path / "project" / "c" / "ts_5.00A_ctf.csv")
    assert resolve_ctf_tables(star, None, warp=False) == [relion]
    assert resolve_ctf_tables(star, None, warp=True) == [warp]
    relion.unlink()
    with pytest.raises(UserError, match=r"1 of 1 CTF tables are missing, the first is c/ts_5\.00A_ctf\.star"):
        resolve_ctf_tables(star, None, warp=False)
    assert resolve_ctf_tables(star_with(tmp_path, "a.mrc"), None, warp=False) is None


def test_shared_sets(shared_data: Path) -> None:
    star = read_particles(shared_data / "ribosomes_10499" / "particles.star")
    assert len(set(resolve_images(star, None))) == 267
    assert set(resolve_ctf_tables(star, None, warp=False) or []) == {shared_data / "ribosomes_10499" / "ctf.star"}
