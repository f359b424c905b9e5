"""The layers of a trial's pairs, as its run in MLflow keeps them: names as they are, which metrics cannot spell, and shapes."""

import json

from kd_hpo.core.plan import PairPlan


def layer_shapes(plan: PairPlan) -> str:
    """JSON: of `teacher` and `student`, each layer's name and its channels, height and width."""
    return json.dumps(
        {
            network: [{"name": layer.name, "shape": [layer.channels, layer.height, layer.width]} for layer in layers]
            for network, layers in (("teacher", plan.teacher), ("student", plan.student))
        }
    )
