"""Starts a worker while its process group is signalled, and is killed when the worker runs."""

import multiprocessing
import os
import signal
import time

from frepo_scale.ops.workers import ignore_signals_end_with_parent, signals_blocked


def work(pipe):
    ignore_signals_end_with_parent()
    for _ in range(2):
        pipe.send(os.getpid())
        time.sleep(0.5)
    time.sleep(600)


def main():
    heard = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: heard.append(number))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs,), daemon=True)
    with signals_blocked():
        worker.start()
        theirs.close()
    os.killpg(0, signal.SIGTERM)  # while it imports
    ours.recv()
    os.killpg(0, signal.SIGINT)  # while it works
    ours.recv()
    print(worker.pid, sorted(heard) == [signal.SIGINT, signal.SIGTERM], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
