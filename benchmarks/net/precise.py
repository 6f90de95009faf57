"""An event loop for work in fractions of a millisecond, and the queue whose items leave it when their time has come."""

import asyncio
import selectors
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PreciseLoop:
    """An event loop in a thread of its own, so that whoever measures does not delay what is measured.

    It waits by select(2), which takes microseconds; asyncio's own choice, epoll, takes whole milliseconds.
    """

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self.loop.run_forever, name="link", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this there, and wait for it on the caller's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def close(self) -> None:
        """End every task there, and the thread."""
        await self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self._thread.join)
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Departures(Generic[T]):
    """Items on their way, each with the loop's time of its arrival, in that order."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[tuple[float, T]] = asyncio.Queue()

    def add(self, due: float, item: T) -> None:
        """An item begins its way."""
        self._items.put_nowait((due, item))

    async def carry(self, deliver: Callable[[T], Awaitable[bool]]) -> None:
        """Hand on each item when it is due, until one is the last: `deliver` says whether more may come."""
        loop, more = asyncio.get_running_loop(), True
        while more:
            due, item = await self._items.get()
            if (ahead_s := due - loop.time()) > 0:
                await asyncio.sleep(ahead_s)
            more = await deliver(item)
