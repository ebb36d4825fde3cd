"""The accelerators that plans are made for: peak rates, memory and connections, each with a source.

All rates are peak rates of one device, dense (without sparsity), in operations or bytes per second.
A device is what JAX calls one: on TPU v4 and v5p both cores of a chip.

Sources:
  TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "System architecture", for compute, memory and
    its bandwidth. "How to Scale Your Model" (jax-ml.github.io/scaling-book, part 2, "TPU specs")
    for one direction of one ICI link, the network per chip, and the devices of a host. Its ICI
    rates are a tenth below those of Google Cloud's tables (both directions of all links of a chip:
    400 GB/s for v5e, 800 for v6e, 1200 for v5p); its network rates are theirs (2 x 100 Gbit/s for
    the 8 chips of a v5e host, 4 x 200 for those of a v6e host, 50 Gbit/s for a v5p chip).
  A100, H100, H200, L4: NVIDIA's data sheets ("A100 Tensor Core GPU", "H100 Tensor Core GPU", "H200
    Tensor Core GPU", "L4 Tensor Core GPU"), the SXM cards unless the name says PCIe; values with
    sparsity are halved; float64 is that of the tensor cores. The decimals of the H100 are those of
    the "H100 Tensor Core GPU architecture" white paper. NVLink is one direction, half of the
    bidirectional value of the data sheet; H100 PCIe: one direction of PCIe 5.0 x16, as NVLink
    bridges connect pairs only.
  B200: NVIDIA's data sheet "NVIDIA Blackwell", column HGX B200. The earlier "NVIDIA Blackwell
    architecture technical brief" had 80 and 40 TFLOP/s in float32 and float64, and 8 TB/s.
  Not here: V100 and older cards, which CUDA 13 does not support.
  Network between hosts: DGX A100 8 x 200 Gbit/s, DGX H100, H200 and B200 8 x 400 Gbit/s (their data
    sheets; the DGX B200 user guide: 8 ConnectX-7 cards of 400 Gbit/s). Google Cloud ("Networking
    and GPU machines") has the same for its H200 (A3 Ultra) and B200 (A4) machines, and 100 Gbit/s
    for the eight L4 of g2-standard-96. Its A2 machines (A100) have 100 Gbit/s for all cards and
    those with H100 600 to 1800 Gbit/s, less than here. The cards of a host add up: what a device
    sends per second on a ring through several hosts, NCCL's bus bandwidth, is limited by all of
    them together (github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md; github.com/NVIDIA/nccl, issue
    495: 600 Gbit/s with 8 x 100 Gbit/s).
  Float32 products on TPUs: one bfloat16 pass at precision "default", three at "high", six at
    "highest" (`jax.lax.Precision`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: what `--on` calls it.
      title: its name for people; what JAX calls `device_kind`, or contains it.
      platform: "tpu", "gpu" or "cpu".
      rates: operations per second of products in "bfloat16", of float32 at the matrix precisions
        "default", "high" and "highest", and in "float64" (0: not supported).
      memory: bytes that programs can use.
      bandwidth: of the memory, bytes per second.
      link: bytes per second that a device sends in one direction: over one ICI link, over NVLink.
      network: bytes per second of one device to other hosts.
      per_host: devices of a host.
      capability: CUDA's compute capability.
      shapes: the slices of a TPU with a fixed list of them.
      largest: devices of the largest slice of a TPU without such a list.
    """

    name: str
    title: str
    platform: str
    rates: Mapping[str, float] = field(hash=False)
    memory: float
    bandwidth: float
    link: float
    network: float
    per_host: int
    capability: str = ""
    shapes: tuple[str, ...] = ()
    largest: int = 0

    @property
    def device_kind(self) -> str:
        """With `platform` and `compute_capability`, what `RidgeConfig.resolved` asks a device."""
        return self.title

    @property
    def compute_capability(self) -> str:
        """Of CUDA; empty elsewhere."""
        return self.capability


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


def _tpu(
    name: str,
    tera: float,
    gib: float,
    bandwidth: float,
    link: float,
    network: float,
    per_host: int,
    shapes: tuple[str, ...] = (),
    largest: int = 0,
) -> Chip:
    rate = tera * 1e12
    rates = {
        "bfloat16": rate,
        "default": rate,
        "high": rate / 3,
        "highest": rate / 6,
        "float64": 0.0,
    }
    return Chip(
        name,
        f"TPU {name}",
        "tpu",
        rates,
        gib * GIB,
        bandwidth,
        link,
        network,
        per_host,
        shapes=shapes,
        largest=largest,
    )


def _gpu(
    name: str,
    title: str,
    tera: tuple[float, float, float, float],
    memory: float,
    bandwidth: float,
    link: float,
    network: float,
    capability: str,
) -> Chip:
    bfloat16, tf32, float32, float64 = (1e12 * x for x in tera)
    rates = {
        "bfloat16": bfloat16,
        "default": tf32,
        "high": tf32,
        "highest": float32,
        "float64": float64,
    }
    return Chip(name, title, "gpu", rates, memory, bandwidth, link, network, 8, capability)


_A100, _HOPPER = (312.0, 156.0, 19.5, 19.5), (989.4, 494.7, 66.9, 66.9)
_H100_PCIE = (756.5, 378.0, 51.2, 51.2)
_B200, _L4 = (2250.0, 1100.0, 75.0, 37.0), (121.0, 60.0, 30.3, 0.47)
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # The compiler for v4 leaves 30 of 32 GiB to programs, that for v5e 15.75 of 16.
        _tpu("v4", 275, 30, 1.2e12, 4.5e10, 6.25e9, 4, largest=4096),
        _tpu("v5e", 197, 15.75, 8.19e11, 4.5e10, 3.125e9, 8, shapes=_FLAT),
        _tpu("v5p", 459, 95, 2.765e12, 9e10, 6.25e9, 4, largest=6144),
        _tpu("v6e", 918, 31.25, 1.638e12, 9e10, 1.25e10, 8, shapes=_FLAT),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", _A100, 80e9, 2.039e12, 3e11, 2.5e10, "8.0"),
        _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", _A100, 40e9, 1.555e12, 3e11, 2.5e10, "8.0"),
        _gpu("h100", "NVIDIA H100 80GB HBM3", _HOPPER, 80e9, 3.35e12, 4.5e11, 5e10, "9.0"),
        _gpu("h100-pcie", "NVIDIA H100 PCIe", _H100_PCIE, 80e9, 2.0e12, 6.4e10, 5e10, "9.0"),
        _gpu("h200", "NVIDIA H200", _HOPPER, 141e9, 4.8e12, 4.5e11, 5e10, "9.0"),
        _gpu("b200", "NVIDIA B200", _B200, 180e9, 7.7e12, 9e11, 5e10, "10.0"),
        _gpu("l4", "NVIDIA L4", _L4, 24e9, 3e11, 3.2e10, 1.5625e9, "8.9"),
    )
}
