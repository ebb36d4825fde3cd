"""One of two processes that connect; as in the program, an error is one line and an exit code."""

import sys

from frepo_scale.core.errors import FailedElsewhere, InputError
from frepo_scale.parallel import ending
from frepo_scale.parallel.connect import connect


def main():
    try:
        connect()
    except (InputError, FailedElsewhere) as error:
        if isinstance(error, InputError):
            print(error, file=sys.stderr)
        return ending.exit_code(error)
    print("AGREED", flush=True)
    return 0


if __name__ == "__main__":
    ending.run_and_leave(main)
