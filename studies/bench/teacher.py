"""What the frozen teacher's features take: processes that read them hold one copy together.

    python studies/bench/teacher.py --processes 3

The features are those of the seed paper's teacher for 12,160 random images of CIFAR's shape. Each process reads all of them;
the proportional set size counts a page that n processes share as 1/n of it in each.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import machine, tell
from step import trial

from kd_hpo.data.teacher_targets import CachedTargets
from kd_hpo.trial.prepare import prepare

READER = """
import sys, numpy, psutil
arrays = [numpy.load(file, mmap_mode="r") for file in sys.argv[1:]]
print(sum(float(array.sum()) for array in arrays), flush=True)
sys.stdin.readline()
maps = [m for m in psutil.Process().memory_maps(grouped=False) if m.path in sys.argv[1:]]
print(sum(m.pss for m in maps), flush=True)
sys.stdin.readline()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with TemporaryDirectory() as cache:
        for precision in ("float32", "bfloat16"):
            config = trial("paper", 25, "uniform")
            config = config.replace(teacher=config.teacher.model_dump() | {"cache_precision": precision})
            targets = prepare(config, Path(cache)).targets
            assert isinstance(targets, CachedTargets)
            files = [str(block.filename) for block in targets.blocks.values() if isinstance(block, np.memmap)]
            one = sum(Path(file).stat().st_size for file in files) / 2**20
            command = [sys.executable, "-c", READER, *files]
            readers = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(given.processes)
            ]
            for reader in readers:
                reader.stdout.readline()
            shares = []
            for reader in readers:
                reader.stdin.write("\n")
                reader.stdin.flush()
                shares.append(int(reader.stdout.readline()) / 2**20)
            del targets
            for reader in readers:
                reader.kill()
                reader.wait()
            tell(f"{precision}: share of each of {given.processes} processes", shares, "MiB")
            tell(f"{precision}: all of them, of {one:.0f} MiB on disk", [sum(shares)], "MiB", goal=1.1 * one)


if __name__ == "__main__":
    main()
