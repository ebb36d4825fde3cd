"""`frepo-scale distill`: one run in one workdir, from its start or a checkpoint to its result."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from frepo_scale.core.errors import Preempted, RunError
from frepo_scale.core.identity import default_settings, scientific_settings
from frepo_scale.core.paths import is_file, is_local
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.state import (
    NEVER,
    TrainState,
    checkpoint_tree,
    from_checkpoint_tree,
    initial_train_state,
)
from frepo_scale.export.run_report import print_result
from frepo_scale.jobs.gallery import write_gallery
from frepo_scale.jobs.host_memory import check_host_memory
from frepo_scale.jobs.machine import check_memory
from frepo_scale.jobs.memory import what_to_lower
from frepo_scale.jobs.net_files import check_same_nets, with_fingerprints
from frepo_scale.jobs.preprocessing import check_same_data, other_data, shared_preprocessing
from frepo_scale.jobs.results import Work, write_results
from frepo_scale.jobs.run import Run, build_evaluator, build_run
from frepo_scale.jobs.settings import Recipe
from frepo_scale.jobs.surroundings import ends_recorded, first_step, nothing_to_save, open_workdir
from frepo_scale.ops.checkpoint import Checkpointer
from frepo_scale.ops.metrics import JsonlWriter, MetricWriter, MultiWriter
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.ops.workdir import KERNELS, Workdir
from frepo_scale.parallel.compiled import keep_compiled
from frepo_scale.parallel.connect import connect
from frepo_scale.parallel.determinism import make_deterministic
from frepo_scale.parallel.environment import environment
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import platform_of
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import of_first, on_first
from frepo_scale.train.ahead import FOLDER, with_program
from frepo_scale.train.calls import calls_of, most_steps
from frepo_scale.train.hooks import Log, Probe, Save
from frepo_scale.train.inputs import Inputs
from frepo_scale.train.loop import Hooks, train
from frepo_scale.train.probing import HeldOutProbe
from frepo_scale.train.stepping import Step, steps_and_batches
from frepo_scale.train.stragglers import Stragglers, hosts


def start(recipe: Recipe, root: Path) -> None:
    """Sets up the compiler and the processes; to be called before any device is used.

    Raises:
      InputError: the workdir belongs to another run, or the environment is wrong: see `connect`.
    """
    if recipe.config.mesh.deterministic:
        recipe = with_fingerprints(recipe)
        # The check comes before a folder is made in it.
        settings, defaults = scientific_settings(recipe.config), default_settings(recipe.config)
        Workdir(root).check_identity(settings, defaults)
        make_deterministic(root / KERNELS if is_local(root) else None)
    connect()


def distill(recipe: Recipe, root: Path) -> None:
    """Runs or resumes a recipe to its result.

    Args:
      recipe: what to run.
      root: the workdir; made if it does not exist.

    Raises:
      InputError: the recipe, a setting, the data, the devices or the workdir are wrong.
      Preempted: a stop was requested; the state is saved.
      RunError: the loss diverged, or no checkpoint is intact.
    """
    recipe = with_fingerprints(recipe)
    workdir, settings = Workdir(root), scientific_settings(recipe.config)
    on_first(lambda: workdir.check_identity(settings, default_settings(recipe.config)))
    if agree(int(workdir.finished)):
        _say(lambda: print_result(workdir, f"{recipe.name} is finished.\n"))
        return
    with (
        pinned(),
        matmul_precision(recipe.config.distill.matmul_precision),
        Supervisor(workdir, recipe.config.loop.watchdog_minutes) as supervisor,
    ):
        # A workdir in use is refused before data are read; an unused one is made after all checks.
        on_first(lambda: supervisor.lock() if is_file(workdir.lock) else None)
        run = build_run(recipe)
        check_same_data(run.dataset)
        check_same_nets(run.config)
        check_host_memory(run)
        check_memory(run)
        loop = recipe.config.loop
        most = most_steps(loop.steps_per_call, run.dataset.placement, platform_of(run.mesh))
        on_first(lambda: open_workdir(workdir, supervisor, run))
        keep_compiled(workdir.compiled, platform_of(run.mesh))
        preemption = Preemption(supervisor.heartbeat)
        preemption.install()
        with (
            ends_recorded(workdir, supervisor, preemption, partial(what_to_lower, run)),
            _Attempt(run, workdir, supervisor, preemption) as attempt,
        ):
            state, first = attempt.restore_or_init()
            supervisor.begin(first, environment(run.mesh))
            if not attempt.is_trained(first):
                with attempt.training(state, first, most) as (step, batches, hooks):
                    state, _, stopped = train(
                        state,
                        with_program(step, workdir.compiled / FOLDER, run.mesh, calls=most),
                        batches,
                        hooks,
                        calls_of(loop, most, first, recipe.config.distill.steps),
                        start=first,
                        steps=recipe.config.distill.steps,
                        preemption=preemption,
                        ledger=supervisor.ledger,
                    )
                if stopped:
                    raise Preempted
            with nothing_to_save(workdir, supervisor, preemption):
                write_results(attempt.work, state, attempt.seconds())


def _say(action: Callable[[], None]) -> None:
    """Process 0 prints for all processes."""
    if is_first():
        action()


@dataclass
class _Progress:
    """Facts besides the state that an attempt restores from its checkpoint.

    Attributes:
      probed: the step of the last probe.
      seconds: seconds spent in earlier attempts.
      at_chance: probes in a row at chance level.
    """

    probed: int = NEVER
    seconds: float = 0.0
    at_chance: int = 0


class _Attempt:
    """One attempt at a run; a context manager that closes the checkpoints at its end."""

    def __init__(
        self, run: Run, workdir: Workdir, supervisor: Supervisor, preemption: Preemption
    ) -> None:
        preprocessing = shared_preprocessing(workdir, run.dataset)
        inputs = Inputs(run.dataset, preprocessing, run.mesh)
        evaluator = build_evaluator(run.config, run.dataset, preemption)
        self.work = Work(run, workdir, supervisor, preprocessing, inputs, evaluator)
        self._checkpointer = Checkpointer(workdir.checkpoints, run.config.loop.keep_every)
        self._writer: MetricWriter = MultiWriter([])
        self._before, self._started = _Progress(), time.monotonic()
        self._preemption = preemption

    def __enter__(self) -> "_Attempt":
        return self

    def __exit__(self, *error: object) -> None:
        self._checkpointer.close()
        if not self._checkpointer.failed:
            self.work.supervisor.ledger.committed()

    def is_trained(self, step: int) -> bool:
        """Whether the state at `step` is the last one, and was probed."""
        return step == self.work.run.config.distill.steps and self._before.probed == step

    def seconds(self) -> float:
        """Seconds spent on the run, earlier attempts included."""
        return self._before.seconds + time.monotonic() - self._started

    def restore_or_init(self) -> tuple[TrainState, int]:
        """The state of the newest intact checkpoint, else the start; and its step.

        Raises:
          InputError: the checkpoint belongs to other data.
          RunError: no checkpoint is intact.
        """
        run, algorithm = self.work.run, self.work.run.algorithm
        # Of process 0: machines of different kinds whiten with different rounding.
        state = initial_train_state(algorithm, of_first(run.start(self.work.inputs.train)))
        tree = checkpoint_tree(algorithm, state)
        ledger = self.work.supervisor.ledger
        with ledger.during("restore"):
            restored = self._checkpointer.restore(tree)
        if restored is None:
            with ledger.during("compile"):
                self._checkpointer.compile(tree)  # a restore has done so
            return state, 0
        if is_first():
            for line in restored.damaged:
                print(f"frepo-scale: {line}; using checkpoint {restored.step}")
        if restored.meta["dataset"] != run.dataset.fingerprint:
            raise other_data(self.work.workdir, run.dataset, restored.meta["dataset"])
        self._before = _Progress(
            **{name: restored.meta[name] for name in ("probed", "seconds", "at_chance")}
        )
        _say(lambda: print(f"resuming {self.work.workdir.root} at step {restored.step}"))
        return from_checkpoint_tree(algorithm, restored.state, state), restored.step

    @contextlib.contextmanager
    def training(
        self, state: TrainState, start: int, most: int
    ) -> Iterator[tuple[Step, Iterator[Any], Hooks]]:
        """The step, its target batches and the hooks of the loop, from step `start` on."""
        run, config = self.work.run, self.work.run.config
        feed = self.work.inputs.feed(
            run.algorithm.batch_size, config.distill.seed, config.data.workers
        )
        with contextlib.ExitStack() as closing:
            step, batches = closing.enter_context(
                steps_and_batches(run.algorithm, state, feed, start, most)
            )
            progress = closing.enter_context(Progress("distil", config.distill.steps, start))
            after_step = self._open_writers(start, closing)
            yield step, batches, self._hooks(start, progress, after_step)
        ledger = self.work.supervisor.ledger
        with ledger.during("checkpoint"):
            self._checkpointer.wait()
        ledger.committed()

    def _hooks(
        self, start: int, progress: Progress, after_step: tuple[Callable[[int], None], ...]
    ) -> Hooks:
        run, config = self.work.run, self.work.run.config.loop
        probe = HeldOutProbe(
            run.algorithm,
            self.work.evaluator,
            self.work.inputs.held_out,
            len(run.dataset.classes),
            # With random images the accuracy stays at chance level.
            chance_probes=0 if run.dataset.placement == "constant" else config.chance_probes,
            at_chance=self._before.at_chance,
            give_up=self._give_up,
            show=self._save_gallery,
        )

        stragglers = Stragglers(hosts(), progress.line, self._writer.write_scalars)

        def save(state: TrainState, step: int, probed: int) -> None:
            self._save(state, step, _Progress(probed, self.seconds(), probe.at_chance))

        return Hooks(
            self._log(progress),
            self._check,
            Probe(config.probe_every, probe, self._before.probed),
            Save(
                config.save_every,
                config.save_minutes,
                save,
                start=start,
                clock_every=config.log_every,
                met=stragglers.compare,
            ),
            after_step,
            partial(first_step, self.work.workdir, self.work.supervisor, self._preemption),
            stragglers,
        )

    def _open_writers(
        self, start: int, closing: contextlib.ExitStack
    ) -> tuple[Callable[[int], None], ...]:
        """Opens the writers of metrics on process 0; returns the actions after each step."""
        if not is_first():
            return ()
        workdir, config = self.work.workdir, self.work.run.config
        tensorboard = self._tensorboard = TensorBoardWriter(workdir.tensorboard)
        self._writer = MultiWriter([JsonlWriter(workdir.metrics, resume_at=start), tensorboard])
        closing.callback(self._writer.close)
        actions = StepActions(
            tensorboard,
            workdir.tensorboard,
            workdir.profile_request,
            start,
            config.distill.steps,
            config.loop.profile_at,
        )
        closing.callback(actions.close)
        return (self._note_commit, actions.after_step)

    def _note_commit(self, step: int) -> None:
        """Records a save once it is complete; raises RunError soon after one that failed."""
        ledger = self.work.supervisor.ledger
        if ledger.save_pending and not self._checkpointer.is_saving():
            ledger.committed()

    def _log(self, progress: Progress) -> Log:
        run, dataset = self.work.run, self.work.run.dataset
        algorithm, steps = run.algorithm, run.config.distill.steps
        flops = algorithm.flops(dataset.image_shape, dataset.num_classes)
        return Log(
            run.config.loop.log_every,
            self._writer,
            progress,
            self.work.supervisor.ledger,
            steps=steps,
            images_per_step=algorithm.batch_size,
            flops_per_step=flops / run.mesh.size,
            shown=algorithm.progress,
            warning=algorithm.warning,
        )

    def _save(self, state: TrainState, step: int, progress: _Progress) -> None:
        run = self.work.run
        on_first(self.work.supervisor.check_lock)
        facts = asdict(progress) | {
            "dataset": run.dataset.fingerprint,
            "settings": scientific_settings(run.config),
            "operative_config": run.recipe.operative,
        }
        self._checkpointer.save(step, checkpoint_tree(run.algorithm, state), facts)

    def _check(self, state: TrainState) -> None:
        """Raises RunError if the loss was not finite at some step."""
        bad = int(state.first_bad_step)
        if bad != NEVER:
            self._give_up(f"the loss is not finite at step {bad}")

    def _give_up(self, what: str) -> NoReturn:
        self._checkpointer.wait()
        self.work.supervisor.ledger.committed()
        good = self._checkpointer.latest()
        self._writer.flush()  # the last rows show what happened, and no save will write them
        saved = "no checkpoint was saved before"
        if good is not None:
            saved = f"the last good checkpoint is {self.work.workdir.checkpoints / str(good)}"
        self.work.supervisor.diverged()
        raise RunError(
            f"{what}; {saved}; try a higher --gin.RIDGE or a lower --gin.LEARNING_RATE in a new"
            " --workdir"
        )

    def _save_gallery(self, distilled: DistilledSet, step: int) -> None:
        if is_first():
            write_gallery(self.work, self._tensorboard, distilled, step)
