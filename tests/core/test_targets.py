"""How many examples of a batch the targets have for the pairs."""

import torch

from kd_hpo.core.targets import Targets


def test_examples_that_are_compared_are_those_of_the_blocks_or_all_where_there_are_none() -> None:
    logits = torch.zeros(6, 3)
    assert Targets(logits, {}).compared == 6
    assert Targets(logits, {(1, 1): torch.zeros(4, 1, 2), (2, 2): torch.zeros(4, 4, 2)}).compared == 4
