"""Rows of a frozen trunk on disk: it runs once for every window, however often that comes.

A window's rows at the exits' boundaries depend on its token ids alone while the trunk is not trained, and only branches
run on them. So training that goes over its text in several passes costs the trunk in the first one only. Rows are kept
in float32, and what is computed from them is the same to the bit.
"""

import hashlib
import os
import shutil
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

    Two files that only grow: rows, and the windows' keys in the same order. What a killed run left half written is cut
    off, so a run that goes on has the rows that it had.

    Args:
        folder: where the files are; one process's alone.
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
        rows_file, _ = self._files or self._open(shape)
        new = [i for i, key in enumerate(keys) if key not in self._slots]
        if new:
            with torch.no_grad():
                found, _ = family.states(input_ids[new])
            rows = torch.stack([found[g] for g in range(1, granularity + 1)], 1).float().cpu()
            self._append(rows, [keys[i] for i in new])
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
        """Both files at the end of their last whole window."""
        size = torch.Size(shape).numel() * 4
        note, wanted = self._folder / "rows.json", dumps({"run": self._run, "shape": shape})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = not note.exists() or note.read_text(encoding="utf-8") != wanted
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if fresh else 0)
            rows_file, keys_file = (os.open(self._folder / name, flags, 0o644) for name in ("rows", "keys"))
            note.write_text(wanted, encoding="utf-8")
        except OSError as error:
            raise self._not_kept(error.strerror) from error
        n = min(os.fstat(rows_file).st_size // size, os.fstat(keys_file).st_size // KEY_BYTES)
        os.truncate(rows_file, n * size)
        os.truncate(keys_file, n * KEY_BYTES)
        needed, free = (self._windows - n) * size, shutil.disk_usage(self._folder).free
        if needed > free:
            raise self._not_kept(f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} free")
        keys = os.pread(keys_file, n * KEY_BYTES, 0)
        self._slots = {keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]: i for i in range(n)}
        self._n = n
        self._files = rows_file, keys_file
        return self._files

    def _append(self, rows: Tensor, keys: list[bytes]) -> None:
        assert self._files is not None
        try:
            for file, content in zip(self._files, (rows.numpy().tobytes(), b"".join(keys)), strict=True):
                left = memoryview(content)
                while left:
                    left = left[os.write(file, left) :]
        except OSError as error:
            raise self._not_kept(error.strerror) from error
        self._slots |= {key: self._n + i for i, key in enumerate(keys)}
        self._n += len(keys)

    def _not_kept(self, reason: str | None) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: the trunk's rows cannot be kept ({reason}); make room and give the same command "
            "again, or train with --passes 1, which keeps none"
        )
