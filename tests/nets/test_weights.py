"""Weights as safe files: what is understood, and what is told where they do not fit."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.weights import load_weights, save_weights, weights_digest

State = dict[str, Tensor]


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_back(tmp_path: Path, suffix: str) -> None:
    saved, loaded, path = network(0), network(1), tmp_path / f"weights{suffix}"
    assert weights_digest(saved) != weights_digest(loaded)
    if suffix == ".pt":
        torch.save(saved.state_dict(), path)
    else:
        save_weights(saved.state_dict(), path)
    load_weights(loaded, path)
    assert weights_digest(loaded) == weights_digest(saved)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.5},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"model_state_dict": state},
        lambda state: {"net": state, "acc": 93.0},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {**state, "epoch": 3, "name": "a"},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
        prefixed("module."),
        prefixed("model."),
        prefixed("network."),
        prefixed("module._orig_mod."),
        lambda state: {"state_dict": prefixed("model.")(state)},
    ],
)
def test_files_of_training_scripts_are_understood(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    saved, loaded = network(0), network(1)
    torch.save(wrap(saved.state_dict()), tmp_path / "checkpoint.pth")
    load_weights(loaded, tmp_path / "checkpoint.pth")
    assert weights_digest(loaded) == weights_digest(saved)


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "args": Namespace(lr=0.1, output=Path("runs")), "best": np.float64(73.2)},
        lambda state: {"params": state, "seed": np.int64(3), "losses": np.zeros(3), "metrics": defaultdict(list, a=[1.0])},
        lambda state: {"model_ema": prefixed("module.")(state), "when": datetime(2020, 1, 1)},
        lambda state: {"state_dict": prefixed("backbone.")(state) | {"accuracy.total": torch.tensor(1)}},
        lambda state: state | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1), "3.total_ops": torch.zeros(1)},
        lambda state: {"state_dict": state, "state_dict_ema": state},
        lambda state: {"a": {"b": {"c": prefixed("deep.down.")(state)}}},
        lambda state: {"0._orig_mod." + name[2:] if name.startswith("0.") else name: t for name, t in state.items()},
    ],
    ids=["arguments", "params", "ema", "lightning", "profiled", "the same twice", "deep", "a compiled part"],
)
def test_weights_are_found_wherever_they_lie(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    saved, loaded = network(0), network(1)
    torch.save(wrap(saved.state_dict()), tmp_path / "checkpoint.pth")
    load_weights(loaded, tmp_path / "checkpoint.pth")
    assert weights_digest(loaded) == weights_digest(saved)


def test_of_several_that_fit_one_is_named(tmp_path: Path) -> None:
    state, path = network(0).state_dict(), tmp_path / "dino.pth"
    torch.save({"student": prefixed("backbone.")(other(state)), "teacher": prefixed("backbone.")(state)}, path)
    loaded = network(1)
    with pytest.raises(ConfigError, match=r"student\.backbone, teacher\.backbone; .*weights_key: "):
        load_weights(loaded, path)
    for key in ("teacher", "teacher.backbone"):
        load_weights(loaded := network(1), path, key)
        assert weights_digest(loaded) == weights_digest(network(0))
    with pytest.raises(ConfigError, match=r"'techer'; what fits is under student\.backbone, teacher\.backbone"):
        load_weights(loaded, path, "techer")


def test_beside_the_usual_ones_others_are_told(tmp_path: Path) -> None:
    state, path, loaded = network(0).state_dict(), tmp_path / "timm.pth", network(1)
    torch.save({"state_dict_ema": other(state), "state_dict": state}, path)
    (note,) = load_weights(loaded, path)
    assert weights_digest(loaded) == weights_digest(network(0)) and "state_dict_ema would fit too" in note
    assert load_weights(loaded, path, "state_dict_ema") == ()
    torch.testing.assert_close(loaded[0].weight, state["0.weight"] + 1)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    state = {
        "state_dict": prefixed("model.")(network(0).state_dict() | {"total_ops": torch.zeros(1)}) | {"loss.weight": torch.ones(3)}
    }
    torch.save(state, tmp_path / "w.pth")
    (note,) = load_weights(network(1), tmp_path / "w.pth")
    assert "total_ops, loss.weight" in note


def test_a_small_part_of_another_network_is_taken_by_its_name_alone(tmp_path: Path) -> None:
    part, path = nn.Linear(2, 2), tmp_path / "large.pth"
    torch.save({f"blocks.{i}.bias": torch.zeros(2) for i in range(9)} | prefixed("part.")(nn.Linear(2, 2).state_dict()), path)
    with pytest.raises(ConfigError, match="weights_key: part"):
        load_weights(part, path)
    load_weights(part, path, "part")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: network(0, classes=100).state_dict(), "one of 100 outputs, and here are 3"),
        (lambda state: {name: t for name, t in state.items() if not name.startswith("3.")}, "has no head"),
        (lambda state: state | {"0.weight": state["0.weight"] * float("nan")}, "not finite: 0.weight"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, change: Callable[[State], State], words: str) -> None:
    torch.save(change(network(0).state_dict()), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=words) as caught:
        load_weights(network(1), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_a_pickled_network_is_refused_by_its_classes(tmp_path: Path) -> None:
    torch.save({"model": network(0)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"objects of .*torch\.nn\.modules.*state_dict\(\), FILE"):
        load_weights(network(1), tmp_path / "w.pt")


class Extra(nn.Linear):
    kept: object = None

    def get_extra_state(self) -> object:
        return self.kept

    def set_extra_state(self, state: object) -> None:
        self.kept = state


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_extra_state_comes_back(tmp_path: Path, suffix: str) -> None:
    saved, loaded, path = nn.Sequential(Extra(2, 2)), nn.Sequential(Extra(2, 2)), tmp_path / f"w.{suffix}"
    saved[0].kept = {"version": 3, "scales": [0.5]}
    if suffix == "pt":
        torch.save({"model": prefixed("module.")(saved.state_dict())}, path)
    else:
        save_weights(saved.state_dict(), path)
    load_weights(loaded, path)
    assert loaded[0].kept == saved[0].kept and torch.equal(loaded[0].weight, saved[0].weight)


def test_extra_state_that_a_file_cannot_keep_is_refused(tmp_path: Path) -> None:
    saved = Extra(2, 2)
    saved.kept = {"when": (1, 2)}
    with pytest.raises(ConfigError, match="get_extra_state"):
        save_weights(saved.state_dict(), tmp_path / "w.safetensors")


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    saved, loaded = nn.ModuleDict({"model": network(0)}), nn.ModuleDict({"model": network(1)})
    torch.save(prefixed("module.")(saved.state_dict()), tmp_path / "wrapped.pt")
    load_weights(loaded, tmp_path / "wrapped.pt")
    assert weights_digest(loaded) == weights_digest(saved)


def test_what_does_not_fit_is_told_by_name_and_shape_and_nothing_is_loaded(tmp_path: Path) -> None:
    target = network(1, classes=3)
    before = weights_digest(target)
    state = network(0, classes=5).state_dict()
    del state["0.weight"], state["0.bias"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    save_weights(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError) as caught:
        load_weights(target, tmp_path / "other.safetensors")
    told = str(caught.value)
    assert all(fact in told for fact in ("missing: 0.weight, 0.bias;", "unknown: extra0, extra1, extra2 and 2 more;"))
    assert "3.weight (5, 4) -> (3, 4), 3.bias (5,) -> (3,)" in told
    assert "\n" not in told
    assert weights_digest(target) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no weights at"), (b"what is this", "cannot be read as weights")],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_that_cannot_be_read_are_told(tmp_path: Path, content: bytes | None, words: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_weights(network(), path)
    assert "\n" not in str(caught.value)


def test_a_file_without_weights_misses_them_all(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match=r"missing: 0.weight, 0.bias, 1.weight and 5 more"):
        load_weights(network(), tmp_path / "list.pt")


def test_weights_files_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"0.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError):
        load_weights(network(), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_shared_weights_are_saved(tmp_path: Path) -> None:
    saved, loaded = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    saved[1].weight = saved[0].weight
    loaded[1].weight = loaded[0].weight
    save_weights(saved.state_dict(), tmp_path / "tied.safetensors")
    load_weights(loaded, tmp_path / "tied.safetensors")
    assert torch.equal(loaded[1].weight, saved[0].weight)


def test_the_digest_tells_names_types_and_values() -> None:
    def digest(tensor: Tensor, name: str = "a") -> str:
        module = nn.Module()
        module.register_buffer(name, tensor)
        return weights_digest(module)

    tensor = torch.tensor([1.0, 0.0])
    others = [tensor + 1, tensor.half(), tensor.bfloat16(), tensor[None], tensor.bool(), torch.tensor(1.0)]
    digests = [digest(tensor), digest(tensor, "b"), *map(digest, others)]
    assert len(set(digests)) == len(digests) and digests[0] == digest(tensor.clone())


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_no_weights(tmp_path: Path, kind: torch.dtype) -> None:
    """Copied as they are, whole numbers of a quantised file would be weights a hundred times too large."""
    target = network(1)
    before = weights_digest(target)
    torch.save({name: t.to(kind) if name == "3.weight" else t for name, t in network(0).state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=rf"3\.weight {kind} -> torch\.float32"):
        load_weights(target, tmp_path / "w.pt")
    assert weights_digest(target) == before


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_size_are_weights(tmp_path: Path, kind: torch.dtype) -> None:
    target, saved = network(1), network(0)
    torch.save({name: t.to(kind) if t.is_floating_point() else t for name, t in saved.state_dict().items()}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    torch.testing.assert_close(target[3].weight, saved[3].weight.to(kind).float())


def test_a_tensor_without_values_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    target = network(1)
    before = weights_digest(target)
    state = network(0).state_dict()
    torch.save(state | {"3.weight": state["3.weight"].to(device="meta")}, tmp_path / "w.pt")
    with pytest.raises(ConfigError):
        load_weights(target, tmp_path / "w.pt")
    assert weights_digest(target) == before
