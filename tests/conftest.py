"""Settings of all tests."""

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# before torch is imported: tests share two cores, and small tensors gain nothing from more threads
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# Tests make and remove tens of thousands of small folders. On some disks, each removal takes milliseconds.
_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)  # also of the processes that tests start

# the same examples in every run, and no failure because the machine is busy
settings.register_profile("opustomo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("opustomo")

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the example sets next to the repository; skip the test if it does not exist."""
    if not _SHARED.is_dir():
        pytest.skip("the shared example sets are not on this machine")
    return _SHARED


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 16 simulated subtomograms of two states, 24³ voxels of 12 Å; tests must not write into it."""
    from opustomo.simulate.acquisition import regular_scheme
    from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
    from opustomo.simulate.volumes import gather_volumes

    volumes, apix = gather_volumes([], ["50S", "30S"], None, 24)
    config = SimulationConfig(
        count=16, apix=apix, scheme=regular_scheme(-60.0, 60.0, 6.0, 3.0), snr=2.0, rot_err=2.0, float16=True
    )
    folder = tmp_path_factory.mktemp("tiny") / "a tiny set"
    simulate_dataset(volumes, config, folder)
    return folder


@pytest.fixture(autouse=True)
def full_precision(request: pytest.FixtureRequest) -> None:
    """Compute convolutions on a GPU without TF32, as ``--no-amp`` does."""
    if request.node.get_closest_marker("cuda"):
        import torch

        torch.backends.cudnn.allow_tf32 = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, and skip GPU tests without a GPU."""
    # so that no process of tests is left alone with one of them at the end; make test keeps this order
    first = [
        *("test_lines.py", "test_ranks.py", "test_resume.py", "test_docs.py", "test_reconstruction_kind.py"),
        *("test_fuzz.py", "test_output_streams.py", "test_interpreted_kernels.py", "test_embedding.py"),
        *("test_resume_equals.py", "test_train_tomo.py", "test_both_browsers.py", "test_training_figure.py"),
    ]
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    reasons = {"cuda": "no GPU"} | ({} if interpreted else {"kernels": "no GPU; see test_interpreted_kernels.py"})
    marked = [(item, why) for name, why in reasons.items() for item in items if item.get_closest_marker(name)]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item, why in marked:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def size_limit() -> Iterator[Callable[[int], None]]:
    """Return a function that limits the size of files of this process: writes then fail as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
