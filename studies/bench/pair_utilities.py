"""What each pair is worth by itself: a student trained with KD and that pair alone, for every pair and some seeds.

    python studies/bench/pair_utilities.py studies/seed_cifar10.yaml --set data.path=/data/cifar10 --seeds 2 \\
        --output studies/bench/seed_cifar10_utilities.json

The accuracy is on half of the images that no split holds (`dev.py`). What stands in the output is not run again.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dev import accuracy_on_dev

from kd_hpo import load_study
from kd_hpo.config.load import with_settings
from kd_hpo.files import write_atomically
from kd_hpo.trial.prepare import prepare

KD_ALONE = "none"


def settings(pair: str, strength: float) -> dict[str, object]:
    """Of KD at weight 1 and temperature 4, with one pair `teacher -> student` at a strength, its gradient balanced."""
    if pair == KD_ALONE:
        weighting = {"kind": "none"}
    else:
        teacher, student = pair.split(" -> ")
        weighting = {"kind": "one_pair", "teacher": teacher, "student": student}
    return {"kd.weight": 1.0, "kd.temperature": 4.0, "pairs.strength": strength, "weighting": weighting}


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
            running[pool.submit(accuracy_on_dev, config, given.cache)] = pair, seed
        for done in as_completed(running):
            pair, seed = running[done]
            found["accuracy"].setdefault(pair, {})[seed] = round(done.result()[0], 5)
            write_atomically(given.output, json.dumps(found, indent=1) + "\n")
            print(f"{pair:20} seed {seed}  {done.result()[0]:.4f}", flush=True)


if __name__ == "__main__":
    main()
