"""What this program is: versions and a fingerprint of its code. Needs no other package."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

PACKAGE = "frepo-scale"
# Those whose version may change numbers.
_LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu"),
)


@functools.cache
def code_fingerprint() -> str:
    """12 digits of the sha256 of the package's Python files."""
    root = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Version of Python, of this package and of the libraries that compute, where installed."""
    found = {"python": platform.python_version()}
    for name in (PACKAGE, *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version() -> str:
    """The version of this package; "unknown" if it runs without being installed."""
    return versions().get(PACKAGE, "unknown")


def version_line() -> str:
    """Such as "frepo-scale 0.1.0, code 0123456789ab, python 3.11.7, jax 0.10.2", for people."""
    found = versions()
    own = f"{PACKAGE} {found.pop(PACKAGE, 'not installed')}, code {code_fingerprint()}"
    return ", ".join([own, *(f"{name} {text}" for name, text in found.items())])


def made_by_newer(maker: str) -> bool:
    """Whether a version, as text, is newer than this one; False if one of them is no version."""
    try:
        theirs, own = ([int(part) for part in one.split(".")] for one in (maker, version()))
    except ValueError:
        return False
    return theirs > own
