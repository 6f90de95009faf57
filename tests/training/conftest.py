from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_family
from training.base import LoadedBase, load_base
from training.loaded import LoadedFamily

torch.set_num_threads(1)  # matrices this small only get slower with more


@pytest.fixture(scope="session")
def tiny(tiny_base_dir: Path) -> LoadedBase:
    return load_base(str(tiny_base_dir))


@pytest.fixture
def family(tiny: LoadedBase) -> LoadedFamily:
    return tiny_family(tiny)
