"""What each pair is worth by itself: a student trained with KD and that pair alone, for every pair and some seeds.

    python studies/bench/pair_utilities.py studies/seed_cifar10.yaml --set data.path=/data/cifar10 --seeds 2 \\
        --output studies/bench/seed_cifar10_utilities.json

The accuracy is on half of the images that no split holds: the student never saw them, though a teacher of `train_and_extra`
did, and they choose nothing in a study. What stands in the output is not run again.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kd_hpo import load_study, run_trial
from kd_hpo.config.load import with_settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.files import write_atomically
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.prepare import build, prepare
from kd_hpo.trial.run import LAST_WEIGHTS

KD_ALONE = "none"


def settings(pair: str, strength: float) -> dict[str, object]:
    """Of KD at weight 1 and temperature 4, with one pair `teacher -> student` at a strength, its gradient balanced."""
    if pair == KD_ALONE:
        weighting = {"kind": "none"}
    else:
        teacher, student = pair.split(" -> ")
        weighting = {"kind": "one_pair", "teacher": teacher, "student": student}
    return {"kd.weight": 1.0, "kd.temperature": 4.0, "pairs.strength": strength, "weighting": weighting}


def utility(config: TrialConfig, cache: Path) -> float:
    with TemporaryDirectory() as folder:
        prepared = prepare(config, cache)
        run_trial(config, lambda epoch: None, cache=cache, folder=Path(folder), prepared=prepared)
        network = build(config.student.network, prepared.batches, seed=config.seed)
        load_weights(network, Path(folder) / LAST_WEIGHTS)
    return score(network, prepared.batches, prepared.splits.extra[::2]).accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--strength", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    trial = load_study(given.study, given.set).trial()
    prepared = prepare(trial, given.cache, print)
    teacher, student = ([layer.name for layer in layers] for layers in (prepared.plan.teacher, prepared.plan.student))
    found = {"conditions": {}, "teacher": teacher, "student": student, "accuracy": {}}
    if given.output.is_file():
        found = json.loads(given.output.read_text())
    found["conditions"] = {
        "study": given.study.name,
        "strength": given.strength,
        "images": len(prepared.splits.extra[::2]),
        "teacher": prepared.teacher_digest,
    }
    pairs = [KD_ALONE, *(f"{t} -> {s}" for t in teacher for s in student)]
    wanted = [(p, str(s)) for s in range(given.seeds) for p in pairs if str(s) not in found["accuracy"].get(p, {})]
    with ProcessPoolExecutor(given.processes) as pool:
        running = {}
        for pair, seed in wanted:
            config = with_settings(trial, settings(pair, given.strength)).replace(seed=int(seed))
            running[pool.submit(utility, config, given.cache)] = pair, seed
        for done in as_completed(running):
            pair, seed = running[done]
            found["accuracy"].setdefault(pair, {})[seed] = round(done.result(), 5)
            write_atomically(given.output, json.dumps(found, indent=1) + "\n")
            print(f"{pair:20} seed {seed}  {done.result():.4f}", flush=True)


if __name__ == "__main__":
    main()
