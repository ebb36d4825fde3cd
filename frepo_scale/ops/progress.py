"""A progress bar on a terminal; an occasional line in a log file."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from frepo_scale.parallel.runtime import is_first

_MAX_VALUES_ON_TERMINAL = 3  # for lack of width
_LOG_FILE_SECONDS = 10.0  # in a log file every update is a new line


class Progress:
    """Counts steps of one job on standard error."""

    def __init__(self, what: str, total: int, start: int = 0, unit: str = "step") -> None:
        """Shows the description `what`, with `start` of `total` units complete."""
        self._interactive = interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            disable=not is_first(),  # one bar for all processes
            initial=start,
            desc=what,
            unit=unit,
            dynamic_ncols=interactive,
            ascii=None if interactive else True,
            mininterval=0.2 if interactive else _LOG_FILE_SECONDS,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )

    def __enter__(self) -> Self:
        """Returns itself; the bar closes with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Counts steps."""
        self._bar.update(steps)

    def note(self, **values: float | str) -> None:
        """Shows values beside the bar at its next update; on a terminal, the first three."""
        text = {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in values.items()}
        if self._interactive:
            text = dict(list(text.items())[:_MAX_VALUES_ON_TERMINAL])
        self._bar.set_postfix(text, refresh=False)
