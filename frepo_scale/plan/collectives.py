"""The collectives of a compiled module, read from its text (HLO)."""

import re
from typing import NamedTuple

import numpy as np

from frepo_scale.parallel.mesh import DATA, POOL

BOTH = "both"
_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
_LINE = re.compile(rf"= (\(?.*?\)?) ({_KINDS})(?:-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_EXPLICIT = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_CHAIN = re.compile(r'chain_id="(\d+)"')
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{} ]*\})\}")


class Collective(NamedTuple):
    """One collective operation of a module.

    Attributes:
      kind: the name in HLO, such as "all-reduce".
      axis: the mesh axis it runs over, "both", or its groups of devices for anything else.
      bytes: of its result on one device; counted once inside a loop.
    """

    kind: str
    axis: str
    bytes: int


def collectives(text: str, pool: int, data: int) -> list[Collective]:
    """Every collective of a module compiled for a mesh of `pool` x `data` devices.

    Args:
      text: `compiled.as_text()`.
      pool: size of the mesh axis "pool".
      data: size of the mesh axis "data".
    """
    grid = np.arange(pool * data).reshape(pool, data)
    axes = {
        DATA: sorted(grid.tolist()),
        POOL: sorted(grid.T.tolist()),
        BOTH: [sorted(grid.ravel().tolist())],
    }
    found, chains = [], set()
    for line in text.splitlines():
        if match := _LINE.search(line):
            # On TPUs one collective may consist of several fusions, which form a chain.
            if chain := _CHAIN.search(line):
                if (chain[1], match[1]) in chains:
                    continue
                chains.add((chain[1], match[1]))
            groups = _groups(line)
            names = [name for name, expected in axes.items() if groups == expected]
            name = names[0] if names else _axis_of_pairs(groups, grid)
            found.append(Collective(match[2], name, _bytes(match[1])))
    return found


def _bytes(shapes: str) -> int:
    """Bytes of the shapes of an instruction's result."""
    size = 0
    for _, bits, dimensions in _SHAPE.findall(shapes):
        size += int(np.prod(_numbers(dimensions))) * int(bits or 8) // 8
    return size


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",") if x]


def _listed(text: str) -> list[list[int]]:
    return sorted(sorted(_numbers(group)) for group in re.findall(r"\{([\d,]*)\}", text))


def _groups(line: str) -> list[list[int]]:
    """The groups of devices of a collective, as a sorted list of sorted lists.

    Raises:
      ValueError: the line gives them in an unknown form.
    """
    if found := _EXPLICIT.search(line) or _PAIRS.search(line):
        return _listed(found[1])
    if found := _MESH.search(line):
        axes = re.findall(r"'(\w+)'=(\d+)", found[1])
        sizes = [int(size) for _, size in axes]
        ids = np.arange(np.prod(sizes))
        if found[2]:
            ids = ids.reshape(_numbers(found[2]))
        if found[3]:
            ids = ids.transpose(_numbers(found[3]))
        spanned = [i for i, (name, _) in enumerate(axes) if f"'{name}'" in found[4]]
        ids = np.moveaxis(ids.reshape(sizes), spanned, range(-len(spanned), 0))
        rows = ids.reshape(-1, int(np.prod([sizes[i] for i in spanned])))
        return sorted(sorted(row) for row in rows.tolist())
    if found := _IOTA.search(line):
        ids = np.arange(np.prod(_numbers(found[2]))).reshape(_numbers(found[2]))
        if found[3]:
            ids = ids.transpose(_numbers(found[3]))
        return sorted(sorted(row) for row in ids.reshape(_numbers(found[1])).tolist())
    raise ValueError(f"a collective without groups that can be read: {line[:400]}")


def _axis_of_pairs(groups: list[list[int]], grid: np.ndarray) -> str:
    """The mesh axis of all groups, or of all pairs of a permutation; otherwise the groups."""
    position = {int(device): index for index, device in np.ndenumerate(grid)}
    for name, fixed in ((DATA, 0), (POOL, 1)):
        if all(len({position[device][fixed] for device in group}) == 1 for group in groups):
            return name
    return str(groups)
