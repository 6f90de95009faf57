"""L-BFGS from many starts in interpreters of their own: threads of one wait for each other between NumPy's short calls.

A worker is `python -m scaling.worker`: arrays come in on its standard input and go out on its standard output, so that
a program may ask for this without being written for it, as `multiprocessing` would need.
"""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np

from scaling.errors import ScalingError
from scaling.lbfgs import Ends, lbfgs
from scaling.objective import Objective
from scaling.runs import FloatArray

AT_ONCE = 4096
"""Starts of one batch, and the fewest for which a second worker is worth its start."""


def search(objective: Objective, start: FloatArray) -> Ends:
    """L-BFGS from every start (S, p), on all cores.

    Raises:
        ScalingError: a worker failed.
    """
    count = min(os.cpu_count() or 1, -(-len(start) // AT_ONCE))
    if count == 1:
        return _batches(objective, start)
    ends = Ends(np.empty(start.shape), np.empty(len(start)), np.empty(len(start), np.int64))
    shares = [slice(number, None, count) for number in range(count)]  # neighbours take alike many steps
    with ThreadPoolExecutor(count) as pool:
        for share, found in zip(shares, pool.map(lambda share: _worker(objective, start[share]), shares), strict=True):
            for field in fields(Ends):
                getattr(ends, field.name)[share] = getattr(found, field.name)
    return ends


def _batches(objective: Objective, start: FloatArray) -> Ends:
    found = [lbfgs(objective, start[first : first + AT_ONCE]) for first in range(0, len(start), AT_ONCE)]
    return Ends(*(np.concatenate([getattr(ends, field.name) for ends in found]) for field in fields(Ends)))


def _worker(objective: Objective, start: FloatArray) -> Ends:
    task = io.BytesIO()
    np.savez(task, x=objective.x, y=objective.y, delta=objective.delta, start=start)
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "scaling.worker"]
    done = subprocess.run(command, input=task.getvalue(), capture_output=True, env=environment, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ScalingError(f"a process that searched for the optimum ended with {done.returncode}: {''.join(said)}")
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return Ends(arrays["at"], arrays["value"], arrays["steps"])


def main() -> None:
    """Search for whoever started this process."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as arrays:
        objective = Objective(arrays["x"], arrays["y"], float(arrays["delta"]))
        found = _batches(objective, arrays["start"])
    result = io.BytesIO()
    np.savez(result, at=found.at, value=found.value, steps=found.steps)
    sys.stdout.buffer.write(result.getvalue())


if __name__ == "__main__":
    main()
