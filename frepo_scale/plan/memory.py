"""The memory of one device in an outer step, estimated from shapes.

State and batch are exact. Temporaries are the largest of the parts below, which are not needed at
the same time. The factors come from programs that the compilers for TPU v5e and H100 made of this
step (docs/measurements.md): activations of a backward pass take 1.6 times the outputs of all
convolutions, those of a forward pass the widest operation alone. Compiled programs give the true
figure (`plan.compile`).
"""

from typing import NamedTuple

from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.features import even_chunk
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.rcig import RCIG
from frepo_scale.plan.net_facts import net_facts
from frepo_scale.plan.sizes import Sizes
from frepo_scale.plan.subject import Subject, state_bytes

# Arrays of the size of a net's parameters in an online step. Compilers for TPUs keep apart the
# member, its trained and its fresh successor and the one that is chosen, each with two moments.
_MEMBERS, _MEMBERS_TPU = 2, 16
_MINIBATCHES = 2  # copies of an online minibatch that is sent to the devices
BACKWARD = 1.6  # activations of a backward pass / outputs of convolutions and matrix products
_COPIES = 4.8  # of the features of all rows in the dual form, in float32, with their bfloat16 parts
_SOLUTIONS = {True: 5, False: 8}  # arrays of the size of W, in float64 and in float32 (iterative)
_COLUMNS = {True: 3, False: 8}  # arrays of the size of the labels of all rows
_MATRICES = 3  # Gram matrix, with its diagonal raised, factor
_READ_AHEAD = 5  # batches of each reading process: `data.pipeline` reads four ahead
_TEST_BATCH = 500  # images at most of a step of a test, as `evaluate.fit` has it
_ROWS_PRIMAL = 5  # copies of this device's features in the primal form


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      state: state of the training loop.
      batch: target images, float32.
      temporary: largest number of further bytes.
      parts: the parts of `temporary`, of which the largest counts; empty where compiled.
      compiled: whether the compiler reported it; otherwise it is an estimate.
      code: the program; 0 in an estimate.
    """

    state: float
    batch: float
    temporary: float
    parts: dict[str, float]
    compiled: bool = False
    code: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.state + self.batch + self.temporary + self.code


class Beside(NamedTuple):
    """Memory that other parts of a run need, in bytes.

    Attributes:
      evaluation: a step of an evaluation, in training or in the test, on each device of one
        process.
      checkpoint: the state once, which is written at a save.
      images: the real images that a device holds; 0 where they are elsewhere.
      save: what a save needs of a device: a copy of the state where rows do not divide over the
        devices, else nothing.
    """

    evaluation: float
    checkpoint: float
    images: float
    save: float


class HostMemory(NamedTuple):
    """Memory of one host, in bytes, beside what the program itself takes.

    Attributes:
      images: real images; 0 if they are streamed or their number is not known.
      batches: target batches that were read ahead.
      save: a copy of what this host writes of the state.
    """

    images: float
    batches: float
    save: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.images + self.batches + self.save


def estimate(subject: Subject, algorithm: Algorithm, sizes: Sizes | None, platform: str) -> Memory:
    """The memory of an outer step.

    Args:
      subject: what is planned.
      algorithm: built for the mesh.
      sizes: of the step; None for algorithms that are not FRePo, whose temporaries are not known:
        then those of a backward pass over one chunk.
      platform: "tpu", "gpu" or "cpu": compilers for TPUs keep more of an online step.
    """
    state, _ = state_bytes(subject, algorithm)
    problem = algorithm.problem
    devices = problem.mesh.size
    batch = algorithm.batch_size / devices * (4.0 * subject.pixels + 4)
    net = net_facts(problem, subject.image_shape)
    size = 2 if problem.config.feature_dtype == "bfloat16" else 4
    if sizes is None or not isinstance(algorithm, FRePo):
        chunk = min(problem.config.chunk, algorithm.rows)
        parts = {"a backward pass of one chunk": BACKWARD * size * net.products * chunk}
        return Memory(state, batch, max(parts.values()), parts)
    # The gradient of images and labels, of the member and of the mean, and of mirrored rows.
    gradient = 4.0 * (2 * sizes.images + sizes.r) * (subject.pixels + sizes.K)
    targets = 4.0 * sizes.b * sizes.d
    features = 4.0 * sizes.r * sizes.d
    chunk = even_chunk(sizes.r, problem.config.chunk)
    of_batch = even_chunk(sizes.b, problem.config.chunk)
    # BatchNorm computes in float32, also in nets of bfloat16.
    copies = _MEMBERS_TPU if platform == "tpu" else _MEMBERS
    online = BACKWARD * 4 * sizes.o * net.products + copies * 4.0 * net.parameters
    if problem.size > problem.pool.batch:
        online += _MINIBATCHES * 4.0 * problem.pool.batch * (subject.pixels + sizes.K)
    parts = {
        "target features": size * of_batch * net.widest + targets + features,
        "synthetic backward": BACKWARD * size * chunk * net.products + features + gradient,
        "regression": _regression(sizes) + targets,
        "online step": online + gradient / 2,
    }
    if problem.pool.frozen:
        del parts["online step"]
    if isinstance(algorithm, RCIG) and algorithm.implicit.inner_steps:
        # The gradient through two tangents, both parts of it, and the vectors of the solves.
        tangents = 3 * BACKWARD * size * chunk * net.products
        vectors = 5 * 4.0 * net.parameters + 2 * 4.0 * sizes.r * subject.pixels
        parts["implicit gradient"] = tangents + features + gradient + vectors
    return Memory(state, batch, max(parts.values()), parts)


def least(sizes: Sizes) -> float:
    """Bytes that the regression holds at once in any case: features, matrix and factor, W."""
    s = 8 if sizes.float64 else 4
    rows = sizes.R if sizes.dual else sizes.r
    matrices = 2 * s * sizes.stored * sizes.unknowns
    return 4.0 * rows * sizes.d + matrices + s * sizes.d * sizes.K


def _regression(sizes: Sizes) -> float:
    s, d, K, n = (8 if sizes.float64 else 4), sizes.d, sizes.K, sizes.unknowns
    matrices = _MATRICES * s * sizes.stored * n
    labels = sizes.R if sizes.dual else sizes.r
    solutions = s * K * (_SOLUTIONS[sizes.float64] * d + _COLUMNS[sizes.float64] * labels)
    if not sizes.dual:
        # The sum before each device has its rows.
        whole = s * sizes.stored * sizes.share * n if sizes.share > 1 else 0
        return _ROWS_PRIMAL * s * sizes.r * d + whole + matrices + solutions
    # Gathered in float32, then widened: one copy, and another of what this device has.
    copies = 4 + 2 * 8 if sizes.float64 else 4 * _COPIES
    return copies * sizes.R * d + matrices + solutions


def beside(subject: Subject, algorithm: Algorithm, placement: str) -> Beside:
    """What evaluations and saves need, and real images on devices."""
    net = net_facts(algorithm.problem, subject.image_shape)
    size = algorithm.problem.size
    batch = min(size, subject.evaluation_batch)
    distilled = 4.0 * size * (subject.pixels + subject.num_classes)
    training = BACKWARD * 4 * batch * net.products
    test = 4.0 * min(_TEST_BATCH, subject.evaluation_batch) * (net.widest + subject.pixels)
    evaluation = max(training, test) + 16.0 * net.parameters + distilled
    here, whole = state_bytes(subject, algorithm)
    # `distill.state.checkpoint_tree` takes away the rows that fill the devices up: a copy, in which
    # every device has all rows of the set, of its two moments and of the best set.
    save = 0.0 if algorithm.rows == size else here + 4 * distilled
    images = _pixels(subject) / algorithm.problem.mesh.size if placement == "device" else 0.0
    return Beside(evaluation, float(whole), images, save)


def host_memory(subject: Subject, algorithm: Algorithm, placement: str, hosts: int) -> HostMemory:
    """What a run needs of each host.

    Args:
      subject: what is planned.
      algorithm: built for the mesh.
      placement: of the target images.
      hosts: each with one process.
    """
    # As read; whitened ones also as net inputs, except where the devices make those.
    copies = 1.0 + (4.0 if subject.whitened and placement == "memory" else 0.0)
    images = 0.0 if subject.prepared and placement != "memory" else copies * _pixels(subject)
    size = 4.0 if subject.whitened and placement == "memory" else 1.0
    batch = algorithm.batch_size / hosts * (size * subject.pixels + 4)
    batches = 0.0 if placement == "device" else _READ_AHEAD * max(1, subject.workers) * batch
    _, whole = state_bytes(subject, algorithm)
    return HostMemory(images, batches, whole / hosts)


def _pixels(subject: Subject) -> float:
    return float((subject.images or 0) * subject.pixels)
