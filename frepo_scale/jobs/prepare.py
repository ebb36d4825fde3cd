"""`frepo-scale prepare`: converts images in any known form into records."""

from frepo_scale.core.errors import Preempted
from frepo_scale.data.prepare.job import prepare as prepare_set
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.failures import explaining
from frepo_scale.parallel.pinned import pinned


def prepare(config: PrepareConfig) -> None:
    """Makes a prepared set, or resumes one.

    Raises:
      InputError: the source or a setting is wrong.
      Preempted: a stop was requested; finished shards stay on disk.
    """
    preemption = Preemption()
    preemption.install()
    try:
        with pinned(), explaining(lambda text: "use fewer processes: --workers 1"):
            prepare_set(config, preemption)
    except Preempted:
        print(f"stopped; the same command resumes from {config.out}")
        raise Preempted(preemption.exit_code) from None
