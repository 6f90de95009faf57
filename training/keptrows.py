"""Rows of a frozen trunk on disk: it runs once for every window, however often that comes.

A window's rows at the exits' boundaries depend on its token ids alone while the trunk is not trained, and only branches
run on them. So training that goes over its text in several passes costs the trunk in the first one only. Rows are kept
in float32, and what is computed from them is the same to the bit. The processes of a run share what they keep: in a
later pass each has windows that another has seen.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from family.strict import dumps
from training.branches import Context, make_context
from training.errors import CheckpointError

if TYPE_CHECKING:
    from training.modeling import FamilyForCausalLM

KEY_BYTES = 16


class KeptRows:
    """Rows (G, T, H) of every window that was seen, found by its token ids.

    Two files that only grow: rows, and the windows' keys in the same order; who adds to them locks them. What a killed
    run left half written is cut off, so a run that goes on has the rows that it had.

    Args:
        folder: where the files are; any number of processes of a run may have it.
        run: hash of what decides the rows, among other things; rows of another run are deleted.
        windows: so many are to be kept in all; what has no room is refused before the first.
    """

    def __init__(self, folder: Path, run: str, windows: int = 0) -> None:
        self._folder, self._run, self._windows = folder, run, windows
        self._slots: dict[bytes, int] = {}
        self._n = 0
        self._files: tuple[int, int] | None = None

    def states(self, family: "FamilyForCausalLM", input_ids: Tensor) -> tuple[dict[int, Tensor], Context]:
        """As `family.states` without padding, for token ids (B, T), all calls with the same T.

        Raises:
            CheckpointError: the rows cannot be written, or there is no room for all.
        """
        granularity, (_, length) = family.config.granularity, input_ids.shape
        shape = (granularity, length, family.config.decoder.hidden_size)
        keys = [hashlib.blake2b(ids.numpy().tobytes(), digest_size=KEY_BYTES).digest() for ids in input_ids.cpu()]
        rows_file, _ = self._files = self._files or self._open(shape)
        new = self._unknown(keys)
        if new:
            with torch.no_grad():
                found, _ = family.states(input_ids[list(new.values())])
            rows = torch.stack([found[g] for g in range(1, granularity + 1)], 1).float().cpu()
            self._append(dict(zip(new, rows, strict=True)))
        size = torch.Size(shape).numel() * 4
        kept = [bytearray(os.pread(rows_file, size, self._slots[key] * size)) for key in keys]
        stack = torch.stack([torch.frombuffer(content, dtype=torch.float32).view(shape) for content in kept], 1)
        states = dict(enumerate(stack.to(input_ids.device).unbind(), start=1))
        return states, make_context(family.model, states[1], None)

    def close(self) -> None:
        """Close the files."""
        for file in self._files or ():
            os.close(file)
        self._files = None

    def _open(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Both files, at the end of their last whole window."""
        size = torch.Size(shape).numel() * 4
        note, wanted = self._folder / "rows.json", dumps({"run": self._run, "shape": shape})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            rows_file, keys_file = (os.open(self._folder / name, flags, 0o644) for name in ("rows", "keys"))
            with _locked(keys_file):
                own = note.exists() and note.read_text(encoding="utf-8") == wanted
                n = min(os.fstat(rows_file).st_size // size, os.fstat(keys_file).st_size // KEY_BYTES) if own else 0
                os.truncate(rows_file, n * size)
                os.truncate(keys_file, n * KEY_BYTES)
                note.write_text(wanted, encoding="utf-8")
        except OSError as error:
            raise self._not_kept(error.strerror) from error
        needed, free = (self._windows - n) * size, shutil.disk_usage(self._folder).free
        if needed > free:
            raise self._not_kept(f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} free")
        return rows_file, keys_file

    def _unknown(self, keys: list[bytes]) -> dict[bytes, int]:
        """Which of a batch's windows nobody has seen, by key."""
        assert self._files is not None
        if not self._slots.keys() >= set(keys):
            with _locked(self._files[1]):
                self._look()
        return {key: i for i, key in enumerate(keys) if key not in self._slots}

    def _look(self) -> None:
        """Learn of the windows that were added since the last look; the files are locked."""
        assert self._files is not None
        _, keys_file = self._files
        start = self._n * KEY_BYTES
        content = os.pread(keys_file, os.fstat(keys_file).st_size - start, start)
        for at in range(0, len(content), KEY_BYTES):
            self._slots[content[at : at + KEY_BYTES]] = self._n
            self._n += 1

    def _append(self, rows: dict[bytes, Tensor]) -> None:
        assert self._files is not None
        with _locked(self._files[1]):
            self._look()
            new = {key: row for key, row in rows.items() if key not in self._slots}
            contents = b"".join(row.numpy().tobytes() for row in new.values()), b"".join(new)
            sizes = [os.fstat(file).st_size for file in self._files]
            try:
                for file, content in zip(self._files, contents, strict=True):
                    left = memoryview(content)
                    while left:
                        left = left[os.write(file, left) :]
            except OSError as error:
                for file, size in zip(self._files, sizes, strict=True):
                    os.truncate(file, size)
                raise self._not_kept(error.strerror) from error
            self._look()

    def _not_kept(self, reason: str | None) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: the trunk's rows cannot be kept ({reason}); make room and give the same command "
            "again, or train with --passes 1, which keeps none"
        )


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
