"""Making the next item of a stream while the one before it is used."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def ahead(source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The items of `source`, none of them None; one is always on its way. Closed, it waits until that has stopped."""
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while (item := await coming) is not None:
            coming = asyncio.ensure_future(anext(source, None))
            yield item
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        if not coming.cancelled():
            coming.exception()  # it was asked for, or nobody wants it any more
