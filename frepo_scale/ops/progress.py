"""A progress bar on a terminal, an occasional line in a log file."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from frepo_scale.parallel.runtime import is_first

_ON_A_TERMINAL = 3  # values: it is not wide
_LOG_FILE_SECONDS = 10.0  # in a log file every update is a line of its own


class Progress:
    """Counts steps of one job on standard error."""

    def __init__(self, what: str, total: int, start: int = 0, unit: str = "step") -> None:
        """Shows `what` with `start` of `total` units done."""
        self._interactive = interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            disable=not is_first(),  # one bar is enough for all processes
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
        """The bar closes with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar on the screen as it stands."""
        self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Counts steps."""
        self._bar.update(steps)

    def note(self, **values: float | str) -> None:
        """Shows values beside the bar at its next update: all in a log file, the first here."""
        text = {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in values.items()}
        if self._interactive:
            text = dict(list(text.items())[:_ON_A_TERMINAL])
        self._bar.set_postfix(text, refresh=False)
