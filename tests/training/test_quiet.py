import logging
import subprocess
import sys
import warnings

import pytest
from tqdm import tqdm

from training.quiet import quiet

CHATTER = """
import logging, warnings
from tqdm import tqdm
from training.quiet import quiet
with quiet():
    logging.getLogger("lm_eval").warning("a notice")
    warnings.warn("a warning")
    list(tqdm(range(3)))
"""


def test_what_libraries_say_stays_off_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", CHATTER], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_terminal_has_bars_but_no_notices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with quiet():
        logging.getLogger("transformers").warning("a notice")
        list(tqdm(range(3), desc="a bar"))
    said = capsys.readouterr().err
    assert "a bar" in said and "a notice" not in said


def test_afterwards_all_is_said_again_errors_included(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="this is told"), quiet():
        raise ValueError("this is told")
    logging.getLogger("a library").warning("a notice")  # one that no other test in this process has set up
    sys.stderr.write("said\n")
    with pytest.warns(match="a warning"):
        warnings.warn("a warning", stacklevel=1)
    assert "a notice" in caplog.text and capsys.readouterr().err.endswith("said\n")
