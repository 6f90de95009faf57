import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def room(most_bytes: int) -> Iterator[None]:
    """As on a disk that is nearly full: writing a file beyond so many bytes fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
