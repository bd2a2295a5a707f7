"""Every constant of the method is in docs/method.md with its value."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from opustomo.model.config import PhysicsConfig

ROOT = Path(__file__).resolve().parents[1]
NOT_OF_THE_METHOD = {
    # --preset original and the disentanglement prior of OPUS-TOMO
    "BFACTOR_JITTER", "BETA_JITTER", "TV_WEIGHT", "L1_WEIGHT", "SNR_SCALE", "BLUR_RANGE", "VIEW_JITTER_DEG",
    "CONTRAST_JITTER", "OFFSET_JITTER", "EPSILON", "NEIGHBORS_IN_BATCH", "NEW_SHARE", "POOL_GROUPS", "POOL_SIZE",
    "NEAR", "FAR", "FARTHEST_SHARE",
    # the widths of the networks, which are those of OPUS-TOMO
    "HIDDEN", "ENCODER_CHANNELS", "DECODER_CHANNELS",
    # speed and memory
    "ROWS", "BATCH", "CHUNK", "LANES", "FEW_OUTPUTS", "VOXELS_PER_BATCH", "MOST_PER_BATCH", "MOST_PER_CORE",
    "STEPS_CPU", "STEPS_GPU", "LARGEST_CPU_BATCH", "BUSY", "M_TRIM_THRESHOLD", "M_MMAP_MAX", "WARM_UP_PARALLEL",
    # the course of a run: when it saves, reports, waits and gives up
    "AUTOSAVE_SECONDS", "AGREE_STEPS", "GRACE_SECONDS", "PATIENCE_SECONDS", "SECONDS_BETWEEN_LINES",
    "FRACTION_BETWEEN_LINES", "SECONDS_BETWEEN_READINGS", "MOST_LOST", "MOST_LOST_AT_END", "LEAST_LOST_AT_END", "NAMED",
    # comparison of the settings of a resumed run
    "TOLERANCE",
    # keys of random draws
    "VALIDATION_KEY", "POOL_KEY",
}  # fmt: skip
ELSEWHERE = {("cuda_graphs", "WARM_UP")}
"""Constants that have the name of a constant of the method."""


def constants() -> dict[str, list[tuple[str, Any]]]:
    """Return modules and values of the numeric constants of model and training, by name."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for room in ("model", "training"):
        for path in sorted((ROOT / "opustomo" / room).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.Assign):
                    continue
                try:
                    value = eval(compile(ast.Expression(node.value), str(path), "eval"), {"__builtins__": {}})
                except (NameError, TypeError, AttributeError, KeyError):
                    continue
                target = node.targets[0]
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = value if isinstance(target, ast.Tuple) else [value]
                for name, one in zip(names, values, strict=True):
                    flat = one if isinstance(one, tuple) else (one,)
                    numeric = flat and all(isinstance(item, int | float) for item in flat)
                    if isinstance(name, ast.Name) and name.id.isupper() and numeric:
                        found.setdefault(name.id, []).append((path.stem, one))
    return found


def listed() -> dict[str, str]:
    """Return the values in the table of docs/method.md as text, by name."""
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    table = page.split("### Mechanisms and constants", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"`([A-Za-z_]+)` (\([^)]*\)|[\d.e-]+)", table))


def test_the_page_lists_the_constants_of_the_method_with_their_values() -> None:
    page, code = listed(), constants()
    assert float(page.pop("grain")) == PhysicsConfig().grain
    for name, value in page.items():
        assert name in code, f"docs/method.md lists {name}, which no module of model and training defines"
        values = {str(one) for module, one in code[name] if (module, name) not in ELSEWHERE}
        assert values == {value}, f"docs/method.md says {name} = {value}, the code {values}"


def test_no_constant_of_the_method_is_missing() -> None:
    missing = constants().keys() - listed().keys() - NOT_OF_THE_METHOD
    assert not missing, f"add {sorted(missing)} to the table of docs/method.md or to NOT_OF_THE_METHOD"
