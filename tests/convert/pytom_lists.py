"""Particle lists in the format of PyTom."""

from collections.abc import Sequence
from pathlib import Path

PARTICLE = """  <Particle Filename="{file}">
    <Rotation X="{a[1]!r}" Paradigm="ZXZ" Z1="{a[0]!r}" Z2="{a[2]!r}"/>
    <Shift Y="{s[1]!r}" X="{s[0]!r}" Z="{s[2]!r}"/>
    <PickPosition Origin="{origin}" Y="{p[1]!r}" X="{p[0]!r}" Z="{p[2]!r}"/>
    <Wedge Type="SingleTiltWedge"><SingleTiltWedge Smooth="0.0" Angle1="30" Angle2="30" CutoffRadius="0.0">
      <TiltAxisRotation Z1="0.0" Z2="0.0" X="0.0"/></SingleTiltWedge></Wedge>
    <Score Type="FLCFScore" RemoveAutocorrelation="False" Value="{score!r}">
      <PeakPrior Smooth="-1.0" Radius="0.0" Filename=""/><Score Value="9"/></Score>
    <Class Name="{cls}"/>
  </Particle>
"""


def write_list(
    path: Path,
    angles: Sequence[Sequence[float]],
    places: Sequence[Sequence[float]],
    shifts: Sequence[Sequence[float]] | None = None,
    origin: str = "../tomos/TS_01.em",
) -> Path:
    """Write a list of particles p0, p1, …; scores are 0.5, 0.25, …"""
    rows = [
        PARTICLE.format(
            file=f"sub/p{i}.em",
            a=a,
            p=p,
            s=(shifts or [(0.0, 0.0, 0.0)] * (i + 1))[i],
            origin=origin,
            score=0.5 ** (i + 1),
            cls=i,
        )
        for i, (a, p) in enumerate(zip(angles, places, strict=True))
    ]
    path.write_text("<ParticleList>\n" + "".join(rows) + "</ParticleList>\n")
    return path
