"""Descriptions of NVIDIA GPUs for the compiler, on a machine without one.

Each is a GpuTargetConfigProto in text form: what XLA would ask the driver of the card. The numbers
of an H100 are those a driver reports; of the others those of NVIDIA's architecture white papers and
of the table "Technical Specifications per Compute Capability" of the CUDA programming guide.
"""

from typing import NamedTuple

from frepo_scale.plan.chips import Chip


class _Card(NamedTuple):
    """What differs between the cards.

    Attributes:
      cores: streaming multiprocessors.
      fpus: float32 units of each.
      shared: bytes of shared memory of a multiprocessor.
      optin: bytes of shared memory that a block can ask for.
      threads: threads of a multiprocessor.
      l2: bytes of the second cache.
      clock: GHz.
    """

    cores: int
    fpus: int
    shared: int
    optin: int
    threads: int
    l2: int
    clock: float


_CARDS = {
    "a100": _Card(108, 64, 167936, 166912, 2048, 41943040, 1.41),
    "a100-40gb": _Card(108, 64, 167936, 166912, 2048, 41943040, 1.41),
    "h100": _Card(132, 128, 233472, 232448, 2048, 52428800, 1.98),
    "h100-pcie": _Card(114, 128, 233472, 232448, 2048, 52428800, 1.755),
    "h200": _Card(132, 128, 233472, 232448, 2048, 52428800, 1.98),
    "b200": _Card(148, 128, 233472, 232448, 2048, 132644864, 1.965),
    "l4": _Card(58, 128, 102400, 101376, 1536, 50331648, 2.04),
}
# As drivers report them; data sheets round.
_REPORTED = {"h100": (84942979072, 3352320000000)}


def target_text(chip: Chip) -> str:
    """The description of a GPU for `jax.experimental.topologies`.

    Args:
      chip: one of the GPUs of `plan.chips.CHIPS`.
    """
    card = _CARDS[chip.name]
    memory, bandwidth = _REPORTED.get(chip.name, (int(chip.memory), int(chip.bandwidth)))
    major, minor = chip.capability.split(".")
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared} threads_per_core_limit: {card.threads}
  core_count: {card.cores} fpus_per_core: {card.fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {card.l2} clock_rate_ghz: {card.clock}
  device_memory_size: {memory} shared_memory_per_block_optin: {card.optin}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{chip.title}"
"""
