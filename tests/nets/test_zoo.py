"""Networks by name and their weights as safe files."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.zoo import NETWORKS, build_network, load_weights, save_weights, weights_digest


def test_the_papers_networks() -> None:
    teacher = build_network("plain_conv", {"channels": [16, 32, 64], "hidden": 128}, (3, 32, 32), 10, seed=0)
    convolutions = 3 * 16 * 9 + 16 + 16 * 32 * 9 + 32 + 32 * 64 * 9 + 64
    norms, dense = 2 * (16 + 32 + 64), 64 * 2 * 2 * 128 + 128 + 128 * 10 + 10
    assert sum(p.numel() for p in teacher.parameters()) == convolutions + norms + dense
    assert [name for name, _ in teacher.named_children()] == ["conv1", "conv2", "conv3", "flatten", "fc", "logits"]
    assert teacher(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_weights_depend_on_the_seed_alone() -> None:
    def digest(seed: int) -> str:
        torch.rand(3)
        return weights_digest(build_network("plain_conv", {}, (3, 32, 32), 10, seed=seed))

    assert digest(1) == digest(1) != digest(2)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnext", {}, r"no network is called 'resnext'; there are .*plain_conv"),
        ("plain_conv", {"width": 3}, "cannot be built with .*width"),
        ("plain_conv", {"channels": [4] * 5}, "too deep for 32x32 images: nothing is left after conv4.* padding: 1"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(name, arguments, (3, 32, 32), 10, seed=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_back(tmp_path: Path, suffix: str) -> None:
    saved, loaded = (build_network("plain_conv", {}, (3, 32, 32), 10, seed=seed) for seed in (0, 1))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(saved.state_dict(), path)
    else:
        save_weights(saved.state_dict(), path)
    load_weights(loaded, path)
    assert weights_digest(loaded) == weights_digest(saved)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    network = build_network("plain_conv", {}, (3, 32, 32), 10, seed=0)
    with pytest.raises(ConfigError, match="no weights at"):
        load_weights(network, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"what is this")
    with pytest.raises(ConfigError, match="does not hold weights of this PlainConv"):
        load_weights(network, tmp_path / "broken.safetensors")
    save_weights(nn.Linear(2, 2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="does not hold weights"):
        load_weights(network, tmp_path / "other.safetensors")


def test_weights_files_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"conv1.0.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError):
        load_weights(build_network("plain_conv", {}, (3, 32, 32), 10, seed=0), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_every_network_takes_the_shape_and_the_classes() -> None:
    for build in NETWORKS.values():
        assert build((1, 28, 28), 7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
