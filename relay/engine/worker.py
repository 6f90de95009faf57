"""The engine's thread: it takes the sessions' work in and does it forward by forward, as `relay.batch` chooses."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from relay.batch import SHORT_ROWS, Batch, Task
from relay.views import Graph, Work

T = TypeVar("T")
AT_ONCE_S = 8e-3
"""What a session's tokens may take for its work to hold up the event loop: a request that comes meanwhile waits for a
few of them until it is seen.
"""
Future: TypeAlias = "asyncio.Future[None]"


class Worker:
    """Does work for callers on event loops. A lone session's short work is done at once on the loop, which spares two
    changes of thread.
    """

    def __init__(self) -> None:
        self._batch = Batch()
        """Belongs to who holds `_changed`, and to the thread while it is `_busy`."""
        self._arrived: list[Task[Any]] = []
        self._left: list[object] = []
        self._waiting: dict[Task[Any], Future] = {}
        """Who waits for which task that is not done."""
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T], owner: object, *, at_once: bool = True) -> tuple[T, float]:
        """Do an owner's work; the result, and the milliseconds of the forwards and steps that it took.

        `at_once` lets short work hold up the event loop. Cancelled, the work ends with the forward that is under way.
        """
        task = Task(work, owner, came=self._batch.clock())
        with self._changed:
            if at_once:
                self._do_at_once(task)
            if not task.is_done:
                if task.forward is None:
                    self._arrived.append(task)
                done = self._waiting[task] = asyncio.get_running_loop().create_future()
                self._changed.notify()
        if not task.is_done:
            try:
                await done
            except asyncio.CancelledError:
                task.given_up = True
                self._waiting.pop(task, None)
                raise
        if task.error is not None:
            raise task.error
        return task.result, task.spent_s * 1e3  # type: ignore[return-value]

    def leave(self, owner: object) -> None:
        """An owner's text is over: others need not be held back for its next token."""
        with self._changed:
            if self._busy:
                self._left.append(owner)
            else:
                self._batch.leave(owner)

    def close(self) -> None:
        """Wait for the forward that is under way and stop the thread; who still waits is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        _call_all(self._waiting.values(), asyncio.Future.cancel)

    def _do_at_once(self, task: Task[Any]) -> None:
        """Do a task here if nobody else has any and it is quick, as long as its forwards are short and each of another
        graph.
        """
        if self._busy or self._arrived or self._batch.tasks or self._batch.others_decode(task.owner):
            return
        if self._batch.token_s > AT_ONCE_S:
            return
        self._batch.add(task)
        done = set[Graph]()
        while task.forward is not None and task.rest <= SHORT_ROWS and task.forward.view.graph not in done:
            done.add(task.forward.view.graph)
            self._batch.step()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._arrived or self._batch.tasks)
                done = self._take_in()
                while (patience_s := self._batch.patience_s()) > 0 and not self._closed and self._batch.tasks:
                    self._changed.wait_for(lambda: self._closed or self._arrived, patience_s)
                    done += self._take_in()
                if self._closed:
                    return
                self._busy = True
            self._tell(done)
            done = self._batch.step()
            with self._changed:
                self._busy = False  # before who comes back with short work is told
                for owner in self._left:
                    self._batch.leave(owner)
                self._left.clear()
            self._tell(done)

    def _take_in(self) -> list[Task[Any]]:
        """Begin what arrived; the tasks that are done with that."""
        arrived, self._arrived = self._arrived, []
        for task in arrived:
            self._batch.add(task)
        return [task for task in arrived if task.is_done]

    def _tell(self, tasks: Iterable[Task[Any]]) -> None:
        waiting = (self._waiting.pop(task, None) for task in tasks)  # who gives up takes itself out, at any moment
        _call_all([done for done in waiting if done is not None], _resolve)


def _resolve(done: Future) -> None:
    if not done.done():
        done.set_result(None)


def _call_all(futures: Iterable[Future], what: Callable[[Future], Any]) -> None:
    """Call `what` with each future, on its loop, which is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Future]] = {}
    for future in futures:
        by_loop.setdefault(future.get_loop(), []).append(future)
    for loop, its_own in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_each, what, its_own)


def _each(what: Callable[[Future], Any], futures: Iterable[Future]) -> None:
    for future in futures:
        what(future)
