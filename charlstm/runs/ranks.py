"""What the other ranks of a run do while the first one keeps the run folder: see `charlstm.training.world`.

Each rank runs the same trainer. At every tick they agree on whether to stop and whether to save; a checkpoint collects
the states of all ranks' streams, and the first rank writes it.
"""

from collections.abc import Iterator

from charlstm.training.progress import Progress
from charlstm.training.trainer import Trainer


class Helper:
    """The training of a rank other than the first; it has no folder and writes nothing.

    `stop` and `save`, set on any rank, count on all of them: see :class:`charlstm.runs.run.Run`.
    """

    def __init__(self, trainer: Trainer, *, is_calibrated: bool = False) -> None:
        self.trainer, self.stop, self.save = trainer, False, False
        self._is_calibrated = is_calibrated

    def train(self) -> Iterator[Progress]:
        """Train in step with the first rank, and yield every Progress.

        Raises
        ------
        charlstm.errors.Diverged
            If the loss becomes infinite or NaN, as on all ranks.
        """
        trainer, world = self.trainer, self.trainer.world
        if not self._is_calibrated:
            trainer.calibrate()
        for progress in trainer.run():
            if progress.kind == "tick":
                stop, save = world.any(self.stop, self.save)
                if stop:
                    break
                if save:
                    trainer.checkpoint()
                    self.save = False
            yield progress
        if world.any(False)[0]:  # the first rank has not saved this iteration yet
            trainer.checkpoint()
