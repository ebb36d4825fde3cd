"""The description of a net in an export."""

import json

from frepo_scale import config
from frepo_scale.data.dataset import load_dataset
from frepo_scale.jobs.protocol import architecture, evaluation_recipe
from frepo_scale.models.registry import NetConfig

SHAPE = (8, 8, 1)


def test_a_registered_net_is_described_with_every_layer():
    found = architecture(NetConfig(width=4, depth=2, norm="instance"), 10, SHAPE)
    assert found == json.loads(json.dumps(found))
    kinds = [layer["op"] for layer in found["layers"]]
    assert kinds == [
        *("convolution", "relu", "average pool"),
        *("instance norm", "convolution", "relu", "average pool", "flatten", "linear"),
    ]
    assert found["layers"][0] == {
        **{"name": "conv0", "op": "convolution", "inputs": 1, "channels": 4, "kernel": 3},
        **{"stride": 1, "padding": 3, "bias": True, "output": [12, 12, 4]},
    }
    assert found["layers"][3]["epsilon"] == 1e-6
    assert found["feature_layer"] == "flatten 0" and found["features"] == 3 * 3 * 8
    assert found["parameters"] == (9 + 1) * 4 + 2 * 4 + (9 * 4 + 1) * 8 + (72 + 1) * 10
    assert set(found["operations"]) == set(kinds)


def test_of_a_net_of_the_user_the_parameters_are_listed():
    own = NetConfig("frepo_scale.models.mlp.MLP", width=4, depth=1, norm="none")
    found = architecture(own, 10, SHAPE)
    assert "layers" not in found and found["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert found["parameter_shapes"] == {
        "head/bias": [10],
        "head/kernel": [4, 10],
        "hidden0/bias": [4],
        "hidden0/kernel": [64, 4],
    }


def test_the_test_part_is_that_of_the_classes():
    parts = {}
    for classes in ("None", "2-4,7"):
        given = {"CLASSES": classes, "WIDTH": "4"}
        read = config.load_recipe(config.find_recipe("digits_ipc1"), given).config
        parts[classes] = evaluation_recipe(read, load_dataset(read.data))["test"]
    assert parts["None"]["images"] == 355 and "all of it" in parts["None"]["part"]
    assert parts["2-4,7"]["images"] < 150 and "classes 2-4,7" in parts["2-4,7"]["part"]
