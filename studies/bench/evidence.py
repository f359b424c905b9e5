"""What lambda makes of noise and of a true signal, before (`evidence: false`) and now; no network is trained:

    .venv/bin/python studies/bench/evidence.py

Hypergradients of 16 pairs, independent or with lag-one correlation .9: of noise alone, and with two pairs that help by one
standard deviation. For as many updates as real trials have: how large the largest weight is at the end (1 = equal), in how many
runs it is above twice equal, and in how many the two pairs that help are the two strongest, both above equal.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from kd_hpo.core.evidence import BLOCKS, between_pairs
from kd_hpo.core.learned import Learned
from kd_hpo.core.simplex import mirror_descent

T, S = 4, 4
UPDATES = (14, 45, 200, 1000)
STEPS = (0.03, 0.1, 0.3)


def hypergradients(updates: int, correlation: float, helps: float, generator: torch.Generator) -> Iterator[Tensor]:
    now, signal = torch.randn(T, S, generator=generator), torch.zeros(T, S)
    signal[0, 0] = signal[1, 1] = helps
    for _ in range(updates):
        yield now - signal
        now = correlation * now + (1 - correlation**2) ** 0.5 * torch.randn(T, S, generator=generator)


def end(updates: int, correlation: float, helps: float, seed: int, rule: float | None) -> dict[float, Tensor]:
    """(T, S) at the end, by the length of a step."""
    found = {step: Learned(torch.ones(T, S), mirror_descent, step=step, average=rule, mix=0.01) for step in STEPS}
    told = list(hypergradients(updates, correlation, helps, torch.Generator().manual_seed(seed)))
    if rule is None:  # weights depend on what was gathered and the number of moves, not on the way: that saves a minute
        for weighting in found.values():
            weighting.load_state_dict(weighting.state_dict() | gathered(torch.stack(told[:-1]).flatten(1)))
        told = told[-1:]
    for weighting in found.values():
        for h in told:
            weighting.learn(h)
    return {step: weighting.weights(0) for step, weighting in found.items()}


def gathered(series: Tensor) -> dict[str, Tensor]:
    """What `Learned` keeps of hypergradients (n, P) that it has moved by, one after another."""
    size = 1
    while BLOCKS * size < len(series):
        size *= 2
    whole = torch.zeros(BLOCKS * size, series.shape[1])
    whole[: len(series)] = between_pairs(series)
    count, length = torch.tensor(len(series)), torch.tensor(float(len(series)))
    return {"sums": whole.view(BLOCKS, size, -1).sum(1), "count": count, "size": torch.tensor(size), "length": length}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of each row, on evidence")
    parser.add_argument("--before", type=int, default=5, help="runs of each row by the running average, which takes longer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| updates | correlation | rule | step | noise: largest / equal | above 2 | two help: their share | found |")
    print("|---|---|---|---|---|---|---|---|")
    for correlation in (0.0, 0.9):
        for updates in UPDATES:
            for name, rule, runs in (("before", 0.9, given.before), ("evidence", None, given.runs)):
                noise, signal = ([end(updates, correlation, helps, seed, rule) for seed in range(runs)] for helps in (0.0, 1.0))
                for step in STEPS:
                    largest = torch.stack([float(T * S) * weights[step].max() for weights in noise])
                    ends = torch.stack([weights[step].flatten() for weights in signal])
                    two, others = ends[:, [0, S + 1]], ends[:, [i for i in range(T * S) if i not in (0, S + 1)]]
                    found = (two.min(1).values > others.max(1).values) & (two.min(1).values > 1 / (T * S) + 1e-6)
                    print(
                        f"| {updates} | {correlation:g} | {name} | {step:g} | {largest.mean():.2f} (most {largest.max():.2f}) | "
                        f"{(largest > 2).float().mean():.2f} | {two.sum(1).mean():.2f} | {found.float().mean():.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
