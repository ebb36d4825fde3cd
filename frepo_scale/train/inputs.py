"""The input of the nets of a run: the parts of its data set, and its target batches."""

from jax.sharding import Mesh

from frepo_scale.data.dataset import Dataset
from frepo_scale.data.feed import Feed
from frepo_scale.data.net_inputs import Constants, NetInputs, replicated
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.types import Rows, Split, everything
from frepo_scale.data.whitening import Preprocessing


class Inputs:
    """The parts of a data set as the net sees them, and the target batches of a run.

    Attributes:
      train: the target part.
      held_out: selects the best distilled set.
      test: for the final numbers.
    """

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing, mesh: Mesh) -> None:
        """Whitens images placed in memory now; makes other net inputs when they are requested.

        Images in memory that are not whitened stay uint8 pixels: a quarter of the size to store,
        gather and transfer; normalising them on the devices costs almost nothing.
        """
        self._dataset, self._mesh = dataset, mesh
        self._constants: Constants | None = None
        parts = (dataset.train, dataset.held_out, dataset.test)
        self.train: Rows
        self.held_out: Rows
        self.test: Rows
        if dataset.placement == "memory" and preprocessing.whitening is not None:
            self.train, self.held_out, self.test = (
                Split(preprocessing.apply(everything(part)), part.labels) for part in parts
            )
        else:
            self._constants = constants = replicated(preprocessing, mesh)
            self.train, self.held_out, self.test = (NetInputs(part, constants) for part in parts)

    def feed(self, batch: int, seed: int, workers: int) -> Feed:
        """The source of target batches.

        Args:
          batch: target images per outer step, over all devices.
          seed: decides their order.
          workers: processes that read a streamed set; 0 reads on threads.
        """
        dataset = self._dataset
        pixels = self._constants is not None
        return Feed(
            dataset.train if pixels else self.train,
            GlobalOrder(len(dataset.train), batch, seed),
            dataset.placement,
            self._constants,
            self._mesh,
            workers if dataset.placement == "stream" else 0,
        )
