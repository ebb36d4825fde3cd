"""Wrong settings and recipes."""

import pytest

from frepo_scale import config

NO_INTS = ["1.5", "1.0", "'1'", "one", "True", "None", "nan", "1e999", "[1]", "", "-1"]
NO_FLOATS = ["-1", "-1e-9", "'1e-3'", "True", "None", "nan", "inf", "1e999", "-1e999", "[1.0]", ""]
NO_BOOLS = ["1", "0", "yes", "'True'", "true", "None", "[]"]
NO_NAMES = ["5", "None", "True", "", "'none of them'", "(1,)"]
WRONG = {
    **{
        name: [*NO_INTS, "0"]
        for name in [
            "IPC",
            "STEPS",
            "BATCH",
            "WIDTH",
            "DEPTH",
            "POOL_SIZE",
            "LOG_EVERY",
            "PROBE_EVERY",
            "SAVE_EVERY",
            "EVAL_NETS",
            "PROBE_NETS",
            "MEMBERS",
            "MESH_POOL",
            "CHUNK",
            "PROBE_STEPS",
            "ONLINE_STEPS",
            "PRETRAIN_STEPS",
            "PRETRAIN_BATCH",
        ]
    },
    **{
        name: NO_INTS
        for name in [
            "SEED",
            "GRADIENT_IMAGES",
            "MAX_ONLINE",
            "EVAL_STEPS",
            "MESH_DATA",
            "FULL_DATA_STEPS",
            "SKIP_UNREADABLE",
            "DATA_WORKERS",
            "KEEP_EVERY",
            "CHANCE_PROBES",
            "PROFILE_AT",
            "STEPS_PER_CALL",
            "CROSS_RUNS",
            "ROBUSTNESS_IMAGES",
        ]
    },
    "RESOLUTION": [value for value in [*NO_INTS, "0"] if value != "None"],  # None: as stored
    "RIDGE": NO_FLOATS,
    "CLIP": NO_FLOATS,
    "LABEL_MARGIN": NO_FLOATS,
    "AVERAGE": [*NO_FLOATS, "1.0"],
    "ONLINE_LEARNING_RATE": [*NO_FLOATS, "0"],
    "SOFTPLUS_BETA": [*NO_FLOATS, "0"],
    "LEARNING_RATE": [*NO_FLOATS, "0", "0.0"],
    "EVAL_LEARNING_RATE": [*NO_FLOATS, "0"],
    "PRETRAIN_LEARNING_RATE": [*NO_FLOATS, "0"],
    "SAVE_MINUTES": [*NO_FLOATS, "0"],
    "WATCHDOG_MINUTES": NO_FLOATS,
    **{
        name: NO_BOOLS
        for name in [
            "REGRESSION_FLIP",
            "LEARN_LABELS",
            "OUTER_AUGMENT",
            "FULL_DATA",
            "SOFT_RANDOM",
            "DETERMINISTIC",
            "DRAW_ONLINE_STEPS",
        ]
    },
    "EVAL_NORM": [value for value in NO_NAMES if value],  # "": as in the paper
    "EVAL_FLIP": [value for value in NO_BOOLS if value != "None"],  # None: as it suits the data
    **{
        name: NO_NAMES
        for name in [
            "NET",
            "NORM",
            "FIT",
            "FEATURE_DTYPE",
            "NET_DTYPE",
            "EVAL_DTYPE",
            "MATMUL_PRECISION",
            "DATA_SOURCE",
            "DATA_PLACEMENT",
            "ALGORITHM",
            "OUTER_LOSS",
            "OPTIMISER",
            "SCHEDULE",
            "LABEL_SCALE",
            "RIDGE_SCALE",
            "POOL_ACTIVATION",
            "POOL_AGES",
        ]
    },
    "ALGORITHM": NO_NAMES,
    "ALGORITHM_ARGS": ["5", "None", "[1]", "text"],
    "DATASET": [value for value in NO_NAMES if value != "(1,)"],
    "DATA_DIR": ["5", "1.5", "True", "[1]"],
    "NET_ARGS": ["1", "heads", "[]", "None", "", "{1: 2}", "{'width': 3}", "{'heads': 3}"],
    "CLASSES": ["1.5", "True", "", "one", "3-1", "0-4,4", "0,0", "[]", "-1", "0-10", "{}"],
    "CHUNK_OF": ["5/5", "0/0", "5", "0.2", "True", "", "one/two", "-1/5", "0/5/1", "[0, 5]"],
    "SERIES": [value for value in NO_NAMES if value != "None"],  # None: a single run
    "SERIES_PARTS": [*NO_INTS, "0", "1"],
    "SERIES_RUNS": [*NO_INTS, "6"],  # of five parts
    "EVALUATIONS": ["accuracy", "[]", "5", "None", "", "[3]", "['acuracy']", "['accuracy'] * 2"],
    "POOL_WEIGHTS": ["net.safetensors", "5", "None", "", "[3]", "['']"],
    "CROSS_NETS": [
        *("convnet", "[]", "5", "None", "", "[3]", "['convnett']", "['convnet/bach']"),
        *("['convnet', 'convnet']", "[{'nam': 'mlp'}]", "[{'name': 'mlp', 'depth': 0}]"),
    ],
}


def test_every_setting_has_wrong_values():
    assert WRONG.keys() == set(config.settings())


@pytest.mark.parametrize("name", WRONG)
def test_wrong_types_and_ranges(name, distill):
    for value in WRONG[name]:
        # The line names the setting, or the data set for DATASET.
        mentions = "data set" if name == "DATASET" else f"{name} = "
        distill(f"--gin.{name}={value}", mentions=[mentions])


@pytest.mark.parametrize(
    ("binding", "value"),
    [
        ("Pool.batch", "0"),
        ("Evaluation.batch", "1.5"),
        ("Ridge.form", "prime"),
        ("Ridge.precision", "float16"),
        ("Ridge.factorisation", "qr"),
        ("Ridge.block", "0"),
        ("Ridge.distribute_above", "-1"),
    ],
)
def test_wrong_values_of_bindings_without_a_setting(binding, value, distill):
    distill(f"--gin.{binding}={value}", mentions=[f"{binding} = "])


def test_a_seed_has_31_bits(distill):
    distill("--gin.SEED=2147483648", mentions=["SEED = 2147483648", "at most 2147483647"])


@pytest.mark.parametrize(
    ("setting", "mentions"),
    [
        ("IPC=134", ["IPC = 134", "class 8 has 133", "use --gin.IPC=133"]),
        ("IPC=1000000000000000000000", ["use --gin.IPC=133"]),
        ("BATCH=1373", ["BATCH = 1373", "1372 training images", "use --gin.BATCH=1372"]),
        ("WIDTH=1000000000000000000000", ["WIDTH = 1", "at most 1048576"]),
        ("MEMBERS=3", ["MEMBERS = 3 with POOL_SIZE = 10", "1, 2, 5, 10"]),
        ("MESH_DATA=7", ["MESH_DATA = 7", "devices"]),
        ("DEPTH=4", ["DEPTH = 4", "8 px", "size 0", "use --gin.DEPTH=3"]),
        ("DEPTH=1000000000000", ["use --gin.DEPTH=3"]),
        ("DATASET=digitz", ["'digitz'", "did you mean digits?"]),
        ("NET=convnett", ["'convnett'", "did you mean convnet?"]),
        ("NORM=btch", ["'btch'", "did you mean batch?"]),
        ("ALGORITHM_ARGS={'rate': 1}", ["'rate'", "ALGORITHM_ARGS={}"]),
        ("CLIP=0.001", ["CLIP = 0.001", "use --gin.CLIP=2"]),
        ("ALGORITHM=rcig", ["RIDGE_SCALE = 'relative'", "--gin.RIDGE_SCALE=absolute"]),
        ("EVALUATIONS=['no.Such']", ["'no.Such'", "PYTHONPATH"]),
        ("ALGORITHM=no.Such", ["'no.Such'", "PYTHONPATH"]),
        ("ALGORITHM=pathlib.Path", ["pathlib.Path", "frepo_scale.distill.algorithm.Algorithm"]),
        ("IPCC=1", ["--gin.IPCC", "did you mean IPC"]),
        ("Pool.sise=1", ["--gin.Pool.sise", "did you mean Pool.size"]),
        ("EVALUATIONS=['continual']", ["'continual'", "use --gin.SERIES=classes"]),
        ("EVALUATIONS=['membership']", ["'membership'", "use --gin.SERIES=chunks"]),
        ("EVALUATIONS=['linear_probe']", ["'linear_probe'", "--gin.POOL_WEIGHTS="]),
        ("POOL_WEIGHTS=['gone.safetensors']", ["gone.safetensors", "frepo-scale pretrain"]),
        ("SERIES=chunks", ["'accuracy'", "['membership']"]),
        ("DATA_DIR=/not/there", ["not found at /not/there", "x_train"]),
    ],
)
def test_settings_that_do_not_fit(setting, mentions, distill):
    distill(f"--gin.{setting}", mentions=mentions)
    distill(f"--gin.{setting}", "--dry-run", mentions=mentions)


@pytest.mark.parametrize(
    ("old", "new"), [("POOL", "POOL_SIZE"), ("FLIP", "REGRESSION_FLIP"), ("DATA", "DATA_SOURCE")]
)
def test_an_old_name_is_refused_with_the_new_one(old, new, distill, refused, cwd):
    distill(f"--gin.{old}=1", mentions=[f"--gin.{old}", f"the name {new}"])
    (cwd / "old.gin").write_text(f"include 'digits_ipc1.gin'\n{old} = 1\n")
    refused("distill", "old.gin", mentions=[f"old.gin, line 2: {old}", f"the name {new}"])


def test_advice_for_a_whole_number_keeps_the_value(distill):
    distill("--gin.STEPS=1e3", mentions=["--gin.STEPS=1000"])
    distill("--gin.IPC='2'", mentions=["--gin.IPC=2"])


def test_an_unknown_recipe(refused):
    refused("distill", "digits_icp1", mentions=["'digits_icp1'", "did you mean digits_ipc1"])


def test_a_workdir_in_place_of_a_recipe(refused, cwd):
    (cwd / "runs").mkdir()
    refused("distill", "runs", mentions=["recipe 'runs' is a folder", "--workdir runs"])


@pytest.mark.parametrize(
    ("settings", "mentions"),
    [
        (("SERIES=classes", "CLASSES=0-4"), ["CLASSES = '0-4'", "--gin.CLASSES=None"]),
        (("SERIES=chunks", "CHUNK_OF=0/5"), ["CHUNK_OF = '0/5'", "--gin.CHUNK_OF=None"]),
        (("SERIES=classes", "SERIES_PARTS=11"), ["use --gin.SERIES_PARTS=10"]),
        (("CHUNK_OF=2/8", "BATCH=32", "IPC=18"), ["IPC = 18: class 8", "use --gin.IPC=17"]),
        (("CLASSES=3,5", "IPC=140"), ["IPC = 140: class 5", "use --gin.IPC=139"]),
        (("CHUNK_OF=9/10", "BATCH=150"), ["BATCH = 150", "use --gin.BATCH=144"]),
        (("CHUNK_OF=0/900",), ["CHUNK_OF = '0/900'", "no training image of class"]),
        (
            (
                "SERIES=chunks",
                "SERIES_PARTS=40",
                "BATCH=8",
                "IPC=4",
                "EVALUATIONS=['membership']",
            ),
            ["IPC = 4", "use --gin.IPC=3"],
        ),
    ],
)
def test_parts_of_the_data_that_do_not_fit(settings, mentions, distill):
    distill(*(f"--gin.{setting}" for setting in settings), mentions=mentions)
