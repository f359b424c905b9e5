"""Two processes that train one student: regressors and lambda are the same in both."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROCESS = """
import sys
import torch
from torch import nn
from tests.distiller.loops import Net, STEPS, batch, loop_of
import torch.nn.functional as F

rank, folder, wrapped = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "wrapped"
torch.set_num_threads(1)
store = torch.distributed.FileStore(f"{folder}/store", 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
student = Net(3, 1).train()
kd, student, optimizer = loop_of(nn.parallel.DistributedDataParallel(student) if wrapped else student)
for number in range(STEPS):
    x, y = batch(10 * number + rank)
    taught = kd(x, y, outer=lambda: batch(1000 + 10 * number + rank, 16))
    optimizer.zero_grad()
    (F.cross_entropy(taught.logits, y) + taught.loss).backward()
    for parameter in student.parameters() if not wrapped else ():  # as whoever wraps more than the student does
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= 2
    optimizer.step()
    kd.step()
torch.save({"kd": kd.state_dict(), "weights": kd.weights}, f"{folder}/{rank}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("student", ["wrapped", "bare"])
def test_two_processes_have_one_lambda(tmp_path: Path, student: str) -> None:
    command = [sys.executable, "-c", PROCESS]
    started = [subprocess.Popen([*command, str(rank), str(tmp_path), student], cwd=ROOT) for rank in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one["weights"], other["weights"])
    assert one["weights"].std() > 0
    for part in ("losses", "balance"):
        ours, theirs = (each["kd"]["pairs"][part] for each in (one, other))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
