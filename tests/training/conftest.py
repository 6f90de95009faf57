from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_family, write_tiny_base
from training.base import LoadedBase, load_base
from training.model import FamilyModel

torch.set_num_threads(1)  # matrices this small only get slower with more


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedBase:
    return load_base(str(tiny_folder))


@pytest.fixture
def family(tiny: LoadedBase) -> FamilyModel:
    return tiny_family(tiny)
