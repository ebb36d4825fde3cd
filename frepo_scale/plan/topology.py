"""Devices of a TPU slice to compile for, on a machine without one.

The `libtpu` wheel (`pip install frepo-scale[tpu]`) holds the compiler. Only one process of a
machine may load it at a time.
"""

import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from frepo_scale.core.errors import InputError

# Without it, libtpu asks a metadata server that only Google's machines have.
_NO_SERVER = "TPU_SKIP_MDS_QUERY"


def tpu_devices(name: str) -> Sequence[jax.Device]:
    """The devices of a slice such as "v5e:4x4", in the order JAX gives them on the slice itself.

    On v4 and v5p the two cores of a chip are one device ("megacore"), as they are there.

    Raises:
      InputError: no such slice, or no libtpu.
    """
    os.environ.setdefault(_NO_SERVER, "1")
    options = {"chip_config_name": "megacore"} if name.startswith(("v4:", "v5p:")) else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # libtpu's and JAX's errors for this share no narrower class
        raise InputError(
            f"TPU slice {name!r}: {str(error).splitlines()[0]}",
            "a slice such as v5e:4x4 or v4:2x2x2, and the compiler for it",
            "see the name; pip install 'frepo-scale[tpu]'; one process at a time may use libtpu",
        ) from error
    devices: Sequence[jax.Device] = found.devices
    return devices
