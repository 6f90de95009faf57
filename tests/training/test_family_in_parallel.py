"""A family is trained by many processes as by one, however its parameters are spread."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_two_processes_train_as_one_does_under_ddp_and_fsdp() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.in_parallel"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == 6
    assert all(difference < 1e-12 for difference in differences.values()), differences
