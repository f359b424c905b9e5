"""What a batch has for the student's pairs to compare with."""

from dataclasses import dataclass

from torch import Tensor

from kd_hpo.core.plan import Size


@dataclass(frozen=True)
class Targets:
    """What the frozen teacher says of one batch: its logits and features.

    logits  (B, K), as the teacher gives them
    blocks  for each resolution (h, w): (B', h * w, C), the channels of its layers side by side, in the plan's order, of the
            batch's first B' examples: those that the pairs are compared on
    shares  (B, K), 1 at an example's label, or the labels' shares where images are mixed; None where no pair reads labels
    rows       (B,), where each image stands in a memory of training images; None where no pair has one
    negatives  (B, N), where images of other classes stand there
    """

    logits: Tensor
    blocks: dict[Size, Tensor]
    shares: Tensor | None = None
    rows: Tensor | None = None
    negatives: Tensor | None = None

    @property
    def compared(self) -> int:
        """The number B' of examples that pairs are compared on, or B where nothing but the logits is compared."""
        return min((len(block) for block in self.blocks.values()), default=len(self.logits))
