"""Devices of a TPU slice for the compiler, on a machine without a TPU.

The `libtpu` wheel (`pip install 'jax[tpu]'`) holds the compiler. Only one process of a
machine may load it at a time.
"""

import os
import sys
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from frepo_scale.core.errors import InputError

# Otherwise libtpu asks a metadata server that only machines of Google Cloud have.
_NO_SERVER = "TPU_SKIP_MDS_QUERY"


def tpu_devices(name: str) -> Sequence[jax.Device]:
    """The devices of a slice such as "v5e:4x4", in the order that JAX gives them on that slice.

    On v4 and v5p the two cores of a chip form one device ("megacore"), as on the real slice.

    Raises:
      InputError: no such slice, or no libtpu.
    """
    os.environ.setdefault(_NO_SERVER, "1")
    options = {"chip_config_name": "megacore"} if name.startswith(("v4:", "v5p:")) else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # errors of libtpu and JAX have no common narrower class
        raise InputError(
            f"TPU slice {name!r}: {str(error).splitlines()[0]}",
            "a slice such as v5e:4x4 or v4:2x2x2, and the compiler for it",
            f"check the name; {sys.executable} -m pip install 'jax[tpu]'; one process at a time may"
            " use it",
        ) from error
    devices: Sequence[jax.Device] = found.devices
    return devices
