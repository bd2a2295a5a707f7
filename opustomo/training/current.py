"""The template of one particle, for those who look at a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from opustomo.io.mrc import write_volume
from opustomo.physics.boxes import Boxes


def write_template(path: Path, template: np.ndarray, boxes: Boxes, say: Callable[[str], None]) -> None:
    """Write a template (T, T, T) with its true voxel size; no run ends because it cannot be written."""
    # it spans the crop from the centre of its first voxel to that of its last
    spacing = (boxes.crop - 1) * boxes.render_apix / (len(template) - 1)
    try:
        write_volume(path, template, spacing)
    except OSError as error:
        say(f"# warning: the current template is not written: {error}")
