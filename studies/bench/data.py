"""What images cost: decoding a folder of JPEG files once, a later start, a batch with crop and flip.

python studies/bench/data.py --folder /data/cifar10   # train and test below it, a folder a class
python studies/bench/data.py                          # makes 60,000 JPEG files of 32x32 pixels first
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from figures import machine, tell
from PIL import Image

from kd_hpo.data.augment import view
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.image_folder import load_image_folder

BATCH = 128


def make_folder(root: Path, count: int) -> Path:
    chance = np.random.default_rng(0)
    for half, share in (("train", 5 / 6), ("test", 1 / 6)):
        for label in range(10):
            folder = root / half / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(round(count * share) // 10):
                pixels = chance.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return root


def timed(what: str, goal: float, function: object, times: int = 1) -> None:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        function()  # type: ignore[operator]
        found.append(time.perf_counter() - started)
    tell(what, found, "s", goal=goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, default=60_000, help="to be made, without --folder")
    given = parser.parse_args()
    print(machine())
    with TemporaryDirectory() as temporary:
        folder = given.folder or make_folder(Path(temporary) / "images", given.images)
        cache = Path(temporary) / "cache"
        timed("decoded once", 30, lambda: load_image_folder(cache, folder))
        timed("a later start", 1, lambda: load_image_folder(cache, folder), 5)
        images = load_image_folder(cache, folder)
        train = np.arange(images.test_start or len(images.labels))
        batches, chance = ImageBatches(images, train[:1000], torch.device("cpu")), np.random.default_rng(0)
        torch.set_num_threads(1)
        order, spent = chance.permutation(train), []
        for start in range(0, min(len(order) - BATCH, 100 * BATCH), BATCH):
            batch = order[start : start + BATCH]
            started = time.perf_counter()
            view(batches.inputs(batch), batches.labels(batch), ("crop", "flip"), torch.Generator().manual_seed(start))
            spent.append(1000 * (time.perf_counter() - started))
        tell(f"a batch of {BATCH} with crop and flip, one thread", spent, "ms", goal=3)


if __name__ == "__main__":
    main()
