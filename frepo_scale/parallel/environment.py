"""What surrounds a run and changes its numbers: recorded for each attempt, compared on resume.

The record is a flat dictionary of texts: the code of the package, versions, devices, driver, flags
of the compiler, and every option of JAX that is not at its default and is neither fixed (`pinned`)
nor without an effect on numbers. Docs: decision 34.
"""

import json
import os
import platform
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import threadpoolctl
from jax.sharding import Mesh

from frepo_scale.core.errors import FailedElsewhere, InputError
from frepo_scale.core.identity import differences
from frepo_scale.core.versions import code_fingerprint, commit, versions
from frepo_scale.parallel import runtime
from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.parallel.share import gathered

# Options of JAX that may change numbers, by rounding at most, and JAX's defaults (0.10 to 0.12).
RECORDED: Mapping[str, Any] = MappingProxyType(
    {
        # How programs are compiled.
        "jax_optimization_level": "UNKNOWN",
        "jax_exec_time_optimization_effort": 0.0,
        "jax_memory_fitting_effort": 0.0,
        "jax_memory_fitting_level": "O2",
        "jax_compiler_enable_remat_pass": True,
        "jax_disable_most_optimizations": False,
        "jax_use_shardy_partitioner": True,
        "jax_xla_profile_version": 0,
        "jax_pjrt_client_create_options": None,
        "jax_enable_pgle": False,
        "jax_pgle_profiling_runs": 3,
        "jax_pgle_aggregation_percentile": 90,
        "jax_compilation_cache_expect_pgle": False,
        "jax_threefry_gpu_kernel_lowering": False,
        "jax_ragged_dot_use_gpu_pallas_triton_lowering": False,
        "jax_ragged_dot_use_ragged_dot_instruction": True,
        "jax_pallas_use_mosaic_gpu": True,
        "jax_bcoo_cusparse_lowering": False,
        "jax_use_magma": "auto",
        "jax_use_rgv3": True,
        # How programs are traced.
        "jax_disable_jit": False,
        "eager_constant_folding": False,
        "jax_embedded_constants_max_bytes": 32,
        "jax_use_simplified_jaxpr_constants": False,
        "jax_custom_vjp3": False,
        "jax_custom_jvp3": False,
        "jax_remat3": False,
        "jax_remat_barrier_no_cotangents": False,
        "jax_scan3": False,
        "jax_refs_to_pins": False,
        "jax_remove_size_one_mesh_axis_from_type": False,
        # How devices are found and connected.
        "jax_cpu_collectives_implementation": "gloo",
        "jax_sort_devices_by_process_index": True,
        "jax_mock_gpu_topology": "",
        "mock_num_gpu_processes": 0,
    }
)
# Variables of the compiler and of libraries, recorded when they are set.
VARIABLES = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "NCCL_ALGO", "NCCL_PROTO"),
    "OPENBLAS_CORETYPE",
)
# Flags of XLA that change no number: paths, dumps, and the number of devices, which is recorded.
_FLAGS_WITHOUT_EFFECT = re.compile(
    r"--xla_(dump_|force_host_platform_device_count=|gpu_per_fusion_autotune_cache_dir="
    r"|gpu_kernel_cache_file=|hlo_profile)"
)
COMMIT = "commit"  # the entry with the git commit, where it is known
_LONGEST = 2000  # characters of one text


def environment(mesh: Mesh) -> dict[str, str]:
    """The record of this process.

    Args:
      mesh: the devices of the run, some of them of this machine.
    """
    device = mesh.local_devices[0]
    found = _same_everywhere() | {
        "devices": f"{mesh.size} x {device.device_kind} in {jax.process_count()} process(es)",
        "mesh": f"pool {mesh.shape[POOL]} x data {mesh.shape[DATA]}",
    }
    if commit():
        found[COMMIT] = commit()
    found |= _host() if device.platform == "cpu" else _accelerator(device)
    return {name: " ".join(text.split())[:_LONGEST] for name, text in found.items()}


def effective_flags(text: str) -> str:
    """The flags of XLA in a text that may change numbers, sorted."""
    return " ".join(sorted({f for f in text.split() if not _FLAGS_WITHOUT_EFFECT.match(f)}))


def _same_everywhere() -> dict[str, str]:
    """The part that all processes of a run must have in common."""
    found = {"code": code_fingerprint(), **versions()}
    del found["python"]  # changes no number
    values = jax.config.values
    for name, default in RECORDED.items():
        if name in values and values[name] != default:
            found[name] = str(values[name])
    for name in VARIABLES:
        text = os.environ.get(name, "")
        if name == "XLA_FLAGS":
            text = effective_flags(text)
        if text:
            found[name] = text
    return found


def _host() -> dict[str, str]:
    """Processor, cores and LAPACK: they decide how sums are taken on a CPU."""
    found = {"cores": str(len(os.sched_getaffinity(0)))} if hasattr(os, "sched_getaffinity") else {}
    model = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    found["cpu"] = model[1] if model else platform.processor() or platform.machine()
    libraries = {
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture')},"
        f" {pool['num_threads']} thread(s)"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas" and re.search("numpy|scipy", pool["filepath"])
    }
    return found | {"blas": "; ".join(sorted(libraries))}


def _accelerator(device: jax.Device) -> dict[str, str]:
    """Version of the runtime of the device, and of its driver."""
    found = {"runtime": str(device.client.platform_version)}
    driver = re.search(r"Kernel Module.*?(\d+\.\d[.\d]*)", _text("/proc/driver/nvidia/version"))
    return found | ({"driver": driver[1]} if driver else {})


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase for each entry that differs, such as "jax was '0.10.1' and is now '0.10.2'".

    Another commit is no difference: a change of the code is one of its fingerprint.
    """
    one, other = ({**entries, COMMIT: ""} for entries in (recorded, now))
    return differences(one, other)


def check_same_environment() -> None:
    """Checks that all processes run the same code with the same versions and options; collective.

    Raises:
      InputError: on process 0, if a process differs from it; the message names it.
      FailedElsewhere: on the others.
    """
    if runtime.process_count() == 1:
        return
    own = {"host": socket.gethostname(), "environment": _same_everywhere()}
    found = [json.loads(text) for text in gathered(json.dumps(own))]
    differing = []
    for process, theirs in enumerate(found):
        phrases = [
            f"{name} is {theirs['environment'].get(name)!r} and"
            f" {found[0]['environment'].get(name)!r} in process 0"
            for name in sorted(theirs["environment"].keys() | found[0]["environment"].keys())
            if theirs["environment"].get(name) != found[0]["environment"].get(name)
        ]
        if phrases:
            differing.append(f"process {process} on {theirs['host']}: {', '.join(phrases)}")
    if not differing:
        return
    if not runtime.is_first():
        raise FailedElsewhere(2)
    more = f"; and {len(differing) - 3} more processes" if len(differing) > 3 else ""
    raise InputError(
        "the processes do not run the same program: " + "; ".join(differing[:3]) + more,
        "the same code, versions and options for all processes",
        "install the same version and set the same variables for all, then start them again",
    )
