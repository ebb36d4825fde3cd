"""The devices that compute float64 fast enough for the regression.

`Ridge.precision = "auto"` takes float64 where its rate is at least a quarter of the float32 rate:
CPUs and the accelerators built for high-performance computing (half the float32 rate, by the
vendors' datasheets). Consumer, graphics and inference GPUs have 1/32 or 1/64 of it; TPUs have no
float64 units. There the float32 path of `regression.iterative` is both accurate and faster.
"""

import re
from typing import Any

# CUDA compute capabilities: P100; V100; A100 and A30; H100, H200 and GH200; B200 and GB200.
_CAPABILITIES = frozenset({"6.0", "7.0", "8.0", "9.0", "10.0"})
# By name where the runtime does not tell the capability. A name is compared as a whole word, so
# that A10, A40 and L40 do not match A100, and B300 (1/64) does not match B200.
_NAMES = re.compile(
    r"\b(P100|V100S?|A100X?|A800|A30|H100|H200|H800|GH200|B100|B200|GB200"  # NVIDIA
    r"|MI[123]\d\d[AX]?)\b",  # AMD Instinct MI100, MI200 and MI300 series
    re.IGNORECASE,
)
# The architectures of the same AMD accelerators, as the runtime may name them.
_AMD = re.compile(r"\bgfx(908|90a|942|950)\b", re.IGNORECASE)


def has_fast_float64(device: Any) -> bool:
    """Whether a device computes float64 at a quarter of its float32 rate or faster.

    Args:
      device: a `jax.Device`, or a description of one with `platform` and `device_kind`. Its
        `compute_capability`, where it has one, decides before the name does.

    Returns:
      False for TPUs and for names that are not known.
    """
    if device.platform == "cpu":
        return True
    if device.platform not in ("gpu", "cuda", "rocm"):
        return False
    capability = str(getattr(device, "compute_capability", ""))
    if re.fullmatch(r"\d+\.\d+", capability):
        return capability in _CAPABILITIES
    names = f"{device.device_kind} {capability}"
    return bool(_NAMES.search(names) or _AMD.search(names))
