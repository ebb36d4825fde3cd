"""Tasks in worker processes, or in this process if there is one worker.

Tasks write their results whole or not at all, so a stop kills the workers at once.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.ops.workers import ignore_signals_end_with_parent, signals_blocked

_POLL_SECONDS = 0.5  # how soon a stop is noticed while no worker reports
Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Any, Callable[[int], None]], Any]


def _serve(work: Work, connection: Connection) -> None:
    """The worker: does the tasks it receives until the connection closes."""
    ignore_signals_end_with_parent()
    try:
        while True:
            number, task = connection.recv()
            try:
                result = work(task, lambda images: connection.send(("progress", images)))
                connection.send(("done", (number, result)))
            except InputError as error:
                connection.send(("input", (error.what, error.expected, error.fix)))
            except RunError as error:
                connection.send(("run", str(error)))
            except (BrokenPipeError, ConnectionResetError, EOFError):
                raise
            except BaseException:  # the parent raises it with this text
                connection.send(("bug", traceback.format_exc()))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        os._exit(1)  # the parent has ended


def run_tasks(
    work: Callable[[Task, Callable[[int], None]], Result],
    tasks: Sequence[Task],
    workers: int,
    progress: Callable[[int], None],
    finished: Callable[[int, Result], None] = lambda number, result: None,
) -> list[Result]:
    """Does all tasks and returns their results in order.

    Args:
      work: a function of a module; called with a task and a function that reports progress.
      tasks: started in this order.
      workers: number of processes; 1: this process.
      progress: called in this process with what the tasks report, and at least twice a second
        with 0; if it raises, all workers are killed.
      finished: called in this process with number and result of each finished task; likewise.

    Raises:
      InputError, RunError: as a task raised it.
      RuntimeError: a worker failed otherwise or was killed.
    """
    if workers == 1:
        results = []
        for number, task in enumerate(tasks):
            progress(0)
            results.append(work(task, progress))
            finished(number, results[-1])
        return results
    done: dict[int, Result] = {}
    pool = _Pool(work, min(workers, len(tasks)))
    try:
        waiting = iter(enumerate(tasks))
        for connection in pool.connections:
            pool.send(connection, next(waiting, None))
        while len(done) < len(tasks):
            progress(0)
            for kind, value, connection in pool.receive():
                if kind == "progress":
                    progress(value)
                else:
                    number, done[number] = value[0], value[1]
                    finished(number, done[number])
                    pool.send(connection, next(waiting, None))
    finally:
        pool.stop()
    return [done[number] for number in range(len(tasks))]


class _Pool:
    """Worker processes, each with its own pipe."""

    def __init__(self, work: Work, count: int) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks held by threads
        self._processes: dict[Connection, BaseProcess] = {}
        with signals_blocked():
            for _ in range(count):
                own, other = context.Pipe()
                process = context.Process(target=_serve, args=(work, other), daemon=True)
                process.start()
                other.close()  # so that the pipe closes when the worker ends
                self._processes[own] = process
        self.connections = list(self._processes)

    def send(self, connection: Connection, task: tuple[int, Any] | None) -> None:
        """Sends a worker its next task; None: there is none."""
        if task is not None:
            try:
                connection.send(task)
            except OSError as error:
                raise self._lost(connection) from error

    def receive(self) -> list[tuple[str, Any, Connection]]:
        """New messages of the workers; raises what a task raised."""
        messages = []
        for ready in wait(self.connections, timeout=_POLL_SECONDS):
            assert isinstance(ready, Connection)
            try:
                kind, value = ready.recv()
            except (EOFError, OSError) as error:
                raise self._lost(ready) from error
            if kind == "input":
                raise InputError(*value)
            if kind == "run":
                raise RunError(value)
            if kind == "bug":
                raise RuntimeError(f"a worker failed:\n{value}")
            messages.append((kind, value, ready))
        return messages

    def _lost(self, connection: Connection) -> RunError:
        process = self._processes[connection]
        process.join(5)
        return RunError(
            f"a worker process ended (exit code {process.exitcode}; -9 is often a lack of memory);"
            " finished parts are on disk: give the same command again, with fewer --workers"
        )

    def stop(self) -> None:
        """Ends all workers at once."""
        for process in self._processes.values():
            process.kill()
        for connection, process in self._processes.items():
            process.join()
            connection.close()
