"""What faults of the original cost: a set of the quality benchmark, trained with one of them put back.

    python benchmarks/faults.py centre --reduced --sets composition --simulate "--snr 0.3" --visits 4000 [-- --refine 0]

Options are those of ``quality.py``. ``none`` leaves all as it is. Poses are only wrong by candidates and memory where
nothing refines them afterwards, hence ``-- --refine 0`` for these and for what they are compared with.

centre      volumes turn about (Dc - 1)/2 instead of Dc/2
candidates  the eight candidate rotations that leave out the identity and turn by 1.3° on average
weights     ``--normalizectf`` divides by weights without the slices' kernel, which is hardly more than leaving it out
memory      poses move toward the last correction, not by it
snr         the running SNR starts again at every epoch
unseen      half of the training particles are never visited
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


def centre() -> None:
    """Turn about the middle of the grid."""
    from opustomo.physics import sampling

    right = sampling.affine_rows
    sampling.affine_rows = lambda matrices, centre, shift=None: right(matrices, 0.0, shift)


def candidates() -> None:
    """Try the original's rotations."""
    from opustomo.model import autoencoder
    from opustomo.model.candidates import original_candidates

    autoencoder.candidate_rotations = lambda kind: original_candidates()


def weights() -> None:
    """Leave the weights of the slices out."""
    from opustomo.model import autoencoder

    right = autoencoder.ctf_volume
    autoencoder.ctf_volume = lambda *args, normalised=False, **others: right(*args, normalised=False, **others)


def memory() -> None:
    """Let U go toward δA and u toward A t."""
    import torch

    from opustomo.geometry.quaternion import quaternion_to_matrix
    from opustomo.training.memory import PoseMemory

    right = PoseMemory.update

    def update(self: Any, index: Any, turn: Any, shift_px: Any, *others: Any, **named: Any) -> None:
        rest = quaternion_to_matrix(self.turn[index]).mT @ turn
        rotation = self.current(index)[0] @ rest
        left = shift_px - torch.einsum("bij,bi->bj", rotation, self.shift_px[index])
        right(self, index, rest, left, *others, **named)

    PoseMemory.update = update  # type: ignore[method-assign]


def snr() -> None:
    """Start the running SNR again."""
    from opustomo.training.engine import SNR_START
    from opustomo.training.trainer import Trainer

    right = Trainer.pass_over

    def pass_over(self: Any, *args: Any) -> Any:
        self.engine.snr.fill_(SNR_START)
        return right(self, *args)

    Trainer.pass_over = pass_over  # type: ignore[method-assign]


def unseen() -> None:
    """Leave every other training particle out."""
    from opustomo.training.progress import TRAINING
    from opustomo.training.trainer import Trainer

    right = Trainer.__init__

    def start(self: Any, *args: Any, **named: Any) -> None:
        right(self, *args, **named)
        self.members[TRAINING] = self.members[TRAINING][::2]

    Trainer.__init__ = start  # type: ignore[method-assign]


FAULTS = {"none": lambda: None} | {f.__name__: f for f in (centre, candidates, weights, memory, snr, unseen)}


def main() -> None:
    """Put the fault back, then measure."""
    if len(sys.argv) < 2 or sys.argv[1] not in FAULTS:
        raise SystemExit(f"{__doc__}\nthe first argument is one of {', '.join(FAULTS)}")
    import quality

    fault = sys.argv.pop(1)
    FAULTS[fault]()
    sys.argv[1:1] = ["--label", fault]
    quality.main()


if __name__ == "__main__":
    main()
