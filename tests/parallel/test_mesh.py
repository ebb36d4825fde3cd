"""The mesh and the sizes it accepts."""

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.mesh import MeshConfig, build_mesh, check_sizes


class Device:
    """Replaces a device: the arrangement needs no more."""

    def __init__(self, number):
        self.id = self.process_index = number
        self.platform = self.device_kind = "cpu"

    def __hash__(self):
        return self.id

    def __eq__(self, other):
        return self.id == other.id


def devices(count):
    return [Device(number) for number in range(count)]


@pytest.mark.parametrize(
    ("pool", "data", "count", "shape"),
    [(1, 0, 8, (1, 8)), (2, 0, 8, (2, 4)), (4, 2, 8, (4, 2)), (1, 0, 1, (1, 1))],
)
def test_shapes(pool, data, count, shape):
    mesh = build_mesh(MeshConfig(pool, data), devices(count))
    assert (mesh.shape["pool"], mesh.shape["data"]) == shape
    ids = np.vectorize(lambda d: d.id)(mesh.devices)
    np.testing.assert_array_equal(ids, np.arange(count).reshape(shape))


@pytest.mark.parametrize(("pool", "data", "count"), [(3, 0, 8), (2, 2, 8), (1, 4, 8), (16, 0, 8)])
def test_sizes_that_do_not_make_up_the_devices_are_refused(pool, data, count):
    with pytest.raises(InputError, match=r"on 8 devices.*MESH_DATA=0.*MESH_POOL: 1, 2, 4, 8"):
        build_mesh(MeshConfig(pool, data), devices(count))


def test_members_and_batch_must_divide():
    mesh = build_mesh(MeshConfig(2, 4), devices(8))
    check_sizes(mesh, members=4, batch=64)
    with pytest.raises(InputError, match=r"MEMBERS = 3.*--gin\.MESH_POOL=1 --gin\.MESH_DATA=8"):
        check_sizes(mesh, members=3, batch=64)
    with pytest.raises(InputError, match=r"BATCH = 66 over 4.*MESH_POOL=4 --gin\.MESH_DATA=2"):
        check_sizes(mesh, members=4, batch=66)
    with pytest.raises(InputError, match=r"BATCH = 67 over 4 devices.*--gin\.BATCH=64"):
        check_sizes(mesh, members=4, batch=67)


@pytest.mark.parametrize("wrong", [{"pool": 0}, {"data": -1}, {"pool": 1.5}, {"data": "auto"}])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        MeshConfig(**wrong)
