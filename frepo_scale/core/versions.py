"""What this program is: versions and a fingerprint of its code. Needs no other package."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
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


@functools.cache
def commit() -> str:
    """The git commit of the code, 12 digits, with "-dirty" after a change; "" if it is not known.

    From the repository that the package lies in, the file COMMIT that a launcher has put beside the
    package, or what pip has noted of an installation from git.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        try:
            done = subprocess.run(
                [*described, "--abbrev=12"], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()
    try:
        if (root / "pyproject.toml").exists():
            return " ".join((root / "COMMIT").read_text().split())[:60]
        noted = importlib.metadata.distribution(PACKAGE).read_text("direct_url.json")
        return str(json.loads(noted or "{}")["vcs_info"]["commit_id"])[:12]
    except (OSError, ValueError, LookupError, importlib.metadata.PackageNotFoundError):
        return ""


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
