"""The nets that the setting `CROSS_NETS` names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.models.registry import NetConfig

_FIELDS = ("name", "norm", "width", "depth", "args")


def named_nets(entries: Sequence[Any], default: NetConfig) -> dict[str, NetConfig]:
    """The nets by the names under which results show them, in order.

    Args:
      entries: each "NET", "NET/NORM" or a dict with any of the fields `name`, `norm`, `width`,
        `depth` and `args` of `NetConfig`.
      default: gives the fields that an entry leaves out; `args` only where the net is the same.

    Returns:
      Such as {"resnet18/batch": ..., "convnet/none width=64": ...}.

    Raises:
      InputError: an entry is of another form, names no net, or occurs twice.
    """
    if not entries:
        raise InputError("CROSS_NETS = []", "at least one net")
    nets: dict[str, NetConfig] = {}
    for entry in entries:
        name, net = _named_net(entry, default)
        if name in nets:
            raise InputError(f"CROSS_NETS = {entries!r}: {name} occurs twice", "each net once")
        nets[name] = net
    return nets


def _named_net(entry: Any, default: NetConfig) -> tuple[str, NetConfig]:
    given = _fields_of(entry)
    if given.get("name", default.name) != default.name:
        given = {"args": {}} | given
    try:
        net = replace(default, **given)
    except InputError as error:
        # The settings it may advise to change are not those of CROSS_NETS.
        raise InputError(f"CROSS_NETS = [{entry!r}]: {error.what}", error.expected) from error
    further = "".join(f" {field}={given[field]}" for field in ("width", "depth") if field in given)
    further += "".join(f" {name}={value}" for name, value in net.args.items())
    return f"{net.name}/{net.norm}{further}", net


def _fields_of(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        name, slash, norm = entry.partition("/")
        return {"name": name} | ({"norm": norm} if slash else {})
    if isinstance(entry, Mapping) and set(entry) <= set(_FIELDS):
        return dict(entry)
    raise InputError(
        f"CROSS_NETS = [{entry!r}]",
        f"a text NET or NET/NORM, or a dict of {', '.join(_FIELDS)}",
        """for example --gin.CROSS_NETS="['convnet','resnet18/batch']" """,
    )
