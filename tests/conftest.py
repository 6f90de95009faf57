"""What tests share: a tiny family, and bundles that the exporter really wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.bundle import export
from family.manifest import MANIFEST_NAME
from family.spec import SPEC_NAME
from tests.tiny import tiny_family as make_tiny_family
from tests.tiny import write_tiny_base
from training.base import load_base
from training.loaded import LoadedFamily

ROOT = Path(__file__).resolve().parent.parent
SMOLLM = "smollm2-135m-g3"
EXPORTER = ("family", "training", "exporter", "relay/engine")
"""Packages whose sources decide what a bundle is; the Makefile has the same."""


@pytest.fixture(scope="session")
def tiny_base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base model of six layers, in Hugging Face format."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_family(tiny_base_dir: Path) -> LoadedFamily:
    """A family on the tiny base: exits after layers 2, 4 and 6."""
    return make_tiny_family(load_base(str(tiny_base_dir)))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family at f32. Tests copy it before they change it."""
    return tiny_export(tiny_family, tmp_path_factory.mktemp("bundles") / "tiny-f32", "f32")


@pytest.fixture(scope="session")
def tiny_bundle_int4(tiny_family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family at 4 bits. Tests copy it before they change it."""
    return tiny_export(tiny_family, tmp_path_factory.mktemp("bundles") / "tiny-int4", "int4")


@pytest.fixture(scope="session")
def tiny_bundle_int8(tiny_family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family at 8 bits. Tests copy it before they change it."""
    return tiny_export(tiny_family, tmp_path_factory.mktemp("bundles") / "tiny-int8", "int8")


@pytest.fixture(scope="session")
def smollm_f32() -> Path:
    """The real family at f32, exported on first use."""
    return smollm_bundle("f32")


@pytest.fixture(scope="session")
def smollm_int8() -> Path:
    """The real family at 8 bits, exported on first use."""
    return smollm_bundle("int8")


@pytest.fixture(scope="session")
def smollm_int4() -> Path:
    """The real family at 4 bits, exported on first use."""
    return smollm_bundle("int4")


def tiny_export(family: LoadedFamily, out: Path, precision: str) -> Path:
    """Export and give the bundle's directory."""
    export(family, out, precision)
    return out


def smollm_bundle(precision: str) -> Path:
    """`bundles/smollm2-135m-g3-PRECISION`, exported unless it is there and newer than what it is made of."""
    family, bundle = ROOT / "families" / SMOLLM, ROOT / "bundles" / f"{SMOLLM}-{precision}"
    if not is_current(bundle, family):
        code = "from exporter.cli import main; main()"
        command = [sys.executable, "-c", code, str(family), "--precision", precision, "--out", str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return bundle


def is_current(bundle: Path, family: Path) -> bool:
    """Whether a bundle is there that is no older than the exporter's sources and the family's files, as in `make`."""
    manifest = bundle / MANIFEST_NAME
    sources = [path for folder in EXPORTER for path in (ROOT / folder).glob("*.py")]
    sources += [family / SPEC_NAME, *family.glob("branch-*.safetensors"), *family.glob("confidence-*.jsonl")]
    return manifest.is_file() and manifest.stat().st_mtime >= max(path.stat().st_mtime for path in sources)
