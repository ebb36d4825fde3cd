"""The evaluation protocol of a run with every constant, as exports and `evaluation.json` hold it.

Somebody who has only the export can train the same nets with another framework; `examples/` does.
Source: docs/algorithm.md sections 3 and 5.
"""

from typing import Any

from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.dataset import Dataset
from frepo_scale.data.subset import text_of
from frepo_scale.evaluate.fit import FINAL_LEARNING_RATE, WARM_UP
from frepo_scale.jobs.run import augmentation
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.models.description import count, describe, parameter_shapes
from frepo_scale.models.registry import NETS, NetConfig, build_net, feature_dim

# Which images are the test part, where it is not the published one.
_TEST_PARTS = {
    "digits": "of each class of sklearn.datasets.load_digits() the images number 4, 9, 14, ...,"
    " counted from 0 within the class in the order of the set; pixels are"
    " rint(value * 255 / 16) as uint8, of shape (8, 8, 1)",
}
_INITIALISATION = {
    "weights": "truncated normal of mean 0 and standard deviation sqrt(1 / fan_in):"
    " sqrt(1 / fan_in) / 0.87962566103423978 times a standard normal cut at -2 and 2;"
    " fan_in = kernel * kernel * input channels of a convolution, the inputs of a linear layer",
    "bias": 0.0,
    "norms": "scale 1, bias 0",
}
_PUBLISHED = "the published test (or validation) part"


def evaluation_recipe(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """The protocol by which the result was measured; JSON values.

    Args:
      config: the settings of the run.
      dataset: its data set.
    """
    size = len(dataset.classes) * config.distill.ipc
    net, protocol = config.net.for_evaluation(), config.evaluation
    steps = protocol.steps_for(size)
    return {
        "net": net.name,
        "width": net.width,
        "depth": net.depth,
        "norm": net.norm,
        "args": net.args,
        "architecture": architecture(net, dataset.num_classes, dataset.image_shape),
        "nets": protocol.nets,
        "steps": steps,
        "batch": min(size, protocol.batch),
        "batches": "every epoch is a new random permutation of the set; a step takes the next"
        " `batch` images of it; a partial batch at the end of an epoch is left out",
        "optimiser": "adam",
        "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
        | {"update": "-rate * m_hat / (sqrt(v_hat) + epsilon), with bias correction"},
        "learning_rate": protocol.learning_rate,
        "schedule": "linear warm-up over min(500, steps/2), cosine to 1 %",
        "warm_up_steps": min(WARM_UP, steps // 2),
        "final_learning_rate": FINAL_LEARNING_RATE * protocol.learning_rate,
        "rate_of_step": "t = 0, 1, ..., steps - 1; t < warm_up_steps: learning_rate * t /"
        " warm_up_steps; then final_learning_rate + (learning_rate - final_learning_rate) *"
        " (1 + cos(pi * (t - warm_up_steps) / (steps - warm_up_steps))) / 2",
        "loss": "mean over the batch of half the squared error to the labels",
        "loss_formula": "mean over images of sum over classes of (logit - label)^2 / 2",
        "dtype": protocol.dtype,
        "matmul_precision": config.distill.matmul_precision,
        "augment": vars(augmentation(config, dataset)),
        "augmentation": augmentation_steps(augmentation(config, dataset)),
        "test": {
            "images": len(dataset.test),
            "part": _test_part(dataset),
            "prediction": "the class with the largest logit; of equal ones the first",
            "spread": "std is the population standard deviation over the nets",
        },
    }


def _test_part(dataset: Dataset) -> str:
    """Which images an accuracy is measured on, for somebody who has the data set."""
    own = dataset.spec.num_classes is None
    part = _TEST_PARTS.get(dataset.spec.name, "the test part" if own else _PUBLISHED)
    if len(dataset.classes) == dataset.num_classes:
        return f"{part}; all of it"
    return f"{part}; of it the images of the classes {text_of(dataset.classes)}, counted from 0"


def architecture(
    net: NetConfig, num_classes: int, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The layers of a net with their constants; of a user's own net the shapes of its parameters.

    Args:
      net: the choice of the net.
      num_classes: K.
      image_shape: (H, W, C).
    """
    module = build_net(net, num_classes, image_shape)
    shapes = parameter_shapes(module, image_shape)
    described: dict[str, Any] = {
        "input": list(image_shape),
        "features": feature_dim(module, image_shape),
        "classes": num_classes,
        "parameters": count(shapes),
    }
    if net.name not in NETS:
        return described | {"parameter_shapes": shapes}
    found = describe(module, image_shape)
    return described | {
        "layers": found["layers"],
        "order": "the first layer has the images as input, every other one the layer before it"
        " unless it names `input_layers`; `output` is (H, W, C) or the number of values; the last"
        " layer gives the logits",
        "feature_layer": found["feature_layer"],
        "operations": found["operations"],
        "initialisation": _INITIALISATION,
    }


def augmentation_steps(augment: AugmentConfig) -> dict[str, Any]:
    """What happens to a batch; the strengths are those of "augment".

    Args:
      augment: the operations and their strengths.
    """
    operations = {
        "flip": "left-right mirror with probability 1/2 (only where augment.flip is true)",
        "colour": "first saturation: x <- g + e^(saturation * u) * (x - g), g the mean over the"
        " channels of each pixel; then contrast: x <- m + e^(contrast * u) * (x - m), m the mean of"
        " the image; then brightness: x <- x + brightness * u; each u of its own, uniform in"
        " [-1, 1)",
        "crop": "zoom s = crop_scale^u, u uniform in [-1, 1); shift t = (1 - s) * (H, W) * (v -"
        " 1/2), v uniform in [0, 1) for each axis; the pixel at p shows the image at s * p + t",
        "rotate": "angle a uniform in +-rotate_degrees, anticlockwise; the pixel at (y, x) shows"
        " the image at (cos a * y + sin a * x, -sin a * y + cos a * x)",
        "translate": "shift uniform in +-translate * (H, W), each axis of its own; the pixel at p"
        " shows the image at p - shift",
        "cutout": "a square hole of side 1, 2, ..., floor(cutout * min(H, W)), uniform, at a"
        " uniform position inside the image, filled with 0; nothing where that bound is 0",
    }
    if not augment.flip:
        del operations["flip"]
    return {
        "per_batch": "one operation, drawn uniformly from `operations`, for the whole batch",
        "per_image": "every random number (u, v, angle, shift, hole) is drawn for each image",
        "images": "net inputs, after normalisation and whitening",
        "sampling": "crop, rotate and translate: coordinates (y, x) from the centre of the image,"
        " in pixels; bilinear; positions outside are clamped to the edge",
        "operations": list(operations),
        "operation": operations,
    }
