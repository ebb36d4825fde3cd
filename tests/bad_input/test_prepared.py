"""Wrong prepared sets."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from frepo_scale.data.description import FILE, FORMAT, LABELS, UNFINISHED
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.ops.preemption import Preemption

N, SIDE = 130, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of two classes and three training shards."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "x.npz",
        x_train=rng.integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8),
        y_train=np.arange(N) % 2,
        x_test=rng.integers(0, 256, (6, SIDE, SIDE, 3)).astype(np.uint8),
        y_test=np.arange(6) % 2,
    )
    prepare(PrepareConfig(folder / "x.npz", folder / "out", SIDE, workers=1), Preemption())
    return folder / "out"


def shard(folder):
    return sorted(folder.glob("train-*"))[1]


def remove(folder):
    shard(folder).unlink()


def cut(folder):
    shard(folder).write_bytes(shard(folder).read_bytes()[:-1])


def flip(folder):
    content = bytearray(shard(folder).read_bytes())
    content[len(content) // 2] ^= 1
    shard(folder).write_bytes(content)


def exchange(folder):
    """Exchanges two shards of equal size."""
    first, second = sorted(folder.glob("train-*"))[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def age(folder):
    """A description of another format, of which nothing else is known."""
    (folder / FILE).write_text(json.dumps({"format": FORMAT + 1, "records": 5}))


def unfinish(folder):
    (folder / FILE).unlink()
    (folder / UNFINISHED).mkdir()


def mislabel(folder):
    """A label out of range; every checksum is right."""
    with np.load(folder / LABELS) as found:
        labels = dict(found)
    labels["train"][7] = 2
    np.savez(folder / LABELS, **labels)
    value = json.loads((folder / FILE).read_text())
    value["files"][LABELS] = hashlib.sha256((folder / LABELS).read_bytes()).hexdigest()
    del value["sha256"]
    fitted = value.pop("fitted")
    value["sha256"] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    (folder / FILE).write_text(json.dumps(value | {"fitted": fitted}))


def nothing(folder):
    """The set is whole; the recipe asks for another."""


NAME = "train-00001-of-00003.array_record"


@pytest.mark.parametrize("placement", ["memory", "device", "stream"])
@pytest.mark.parametrize(
    ("harm", "changes", "mentions"),
    [
        (remove, {}, [f"shard set/{NAME} is missing", "copy the set again"]),
        (cut, {}, [f"shard set/{NAME} is damaged (", "bytes instead of"]),
        (flip, {}, [f"shard set/{NAME} is damaged (its checksum differs)"]),
        (exchange, {}, ["shard set/train-00000-of-00003.array_record is damaged (its checksum"]),
        (age, {}, [f"set/{FILE} is of format 3: expected format 2"]),
        (unfinish, {}, ["set is not finished", "give the frepo-scale prepare command"]),
        (mislabel, {}, [f"set/{LABELS} has labels from 0 to 2: expected 0 to 1"]),
        (nothing, {"RESOLUTION": 16}, ["set was prepared at 8 pixels: expected 16"]),
        (nothing, {"DATASET": "imagenet1k"}, ["set has 2 classes: expected 1000"]),
        (nothing, {"FIT": "squash"}, ["set was prepared with --fit crop: expected squash"]),
        (nothing, {"IPC": 63}, ["IPC = 63", "use --gin.IPC=62"]),
    ],
)
def test_a_wrong_prepared_set_is_refused(made, cwd, distill, harm, changes, mentions, placement):
    shutil.copytree(made, cwd / "set")
    harm(cwd / "set")
    settings = {"DATASET": "npz", "DATA_DIR": "set", "BATCH": 32, "FULL_DATA": False}
    settings["DATA_PLACEMENT"] = placement
    distill(
        *(f"--gin.{name}={value}" for name, value in (settings | changes).items()),
        mentions=mentions,
    )
