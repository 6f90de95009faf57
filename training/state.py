"""Checkpoints of a run that is under way: which of them are whole, and which run they are of.

`transformers.Trainer` writes a checkpoint file by file; the note in it comes last, when the others are on disk. One
without a note is not whole, and is as if it were not there; one whose files are not as the note has them is refused.
"""

import json
import os
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from family.files import write_atomic
from training.errors import CheckpointError

STATE_NAME = "training-state"
"""Folder of the checkpoints in a family's folder, while it is trained."""
NOTE_NAME = "run.json"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where `transformers.Trainer` writes the checkpoint of a step."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def mark_whole(folder: Path, step: int, run: str) -> None:
    """Note that the checkpoint of a step is whole, once it is on disk, and delete those before it."""
    kept = checkpoint_path(folder, step)
    sizes = _sizes(kept)
    for name in sizes:
        with (kept / name).open("rb") as file:
            os.fsync(file.fileno())
    write_atomic(kept / NOTE_NAME, json.dumps({"run": run, "bytes": sizes}))
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if path != kept:
            shutil.rmtree(path)


def last_checkpoint(folder: Path, run: str) -> Path | None:
    """The last whole checkpoint in `folder`, if there is one.

    Raises:
        CheckpointError: it is another run's, or is damaged.
    """
    notes = {int(path.parent.name.rpartition("-")[2]): path for path in folder.glob(f"*/{NOTE_NAME}")}
    if not notes:
        return None
    note = notes[max(notes)]
    try:
        written = json.loads(note.read_text(encoding="utf-8"))
        found = written["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note}: not readable ({error!r}); delete {folder} to start anew") from error
    if found != run:
        raise CheckpointError(
            f"{folder}: the state of another run (other text, recipe, family or base); "
            "give another --out, or delete it to start anew"
        )
    sizes = _sizes(note.parent)
    differs = sorted(written.get("bytes", sizes).items() ^ sizes.items())  # notes of earlier releases have no sizes
    if differs:
        raise CheckpointError(f"{note.parent / differs[0][0]}: not as it was written; delete {folder} to start anew")
    return note.parent


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of each of its files by name, the note aside."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != NOTE_NAME)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
