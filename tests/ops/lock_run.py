"""Takes the lock of a workdir on request and holds it until a request to release it.

Argument: the owner file. Reads lines: the first starts it; it prints "OWNER" or the refusal, and an
owner waits for the second one to release.
"""

import sys
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.ops.lock import WorkdirLock

lock = WorkdirLock(Path(sys.argv[1]))
print("READY", flush=True)
sys.stdin.readline()
try:
    lock.acquire()
except InputError as error:
    print("REFUSED", error, flush=True)
else:
    print("OWNER", flush=True)
    sys.stdin.readline()
    lock.release()
