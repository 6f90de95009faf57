"""Libraries talk: progress bars, notices, warnings that are no news to a user of this one."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' notices off the terminal, and their progress bars off a pipe; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
        with bars, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
