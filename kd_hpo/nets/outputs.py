"""What a network returns, and which of it is its output: the logits that a study's `output` names, where it returns more."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from kd_hpo.errors import ConfigError, FeatureMismatch

Refuses = Callable[[object], str | None]


class TakeOutput:
    """A forward hook that leaves, of all that a network returns, the tensor that is named; one tensor alone it leaves as it is.

    name  the key of a mapping, the field of a named tuple or data class, a place in a tuple or list; of items in items, the
          names with dots between them
    Raises FeatureMismatch where there is no such tensor.
    """

    def __init__(self, name: str | int) -> None:
        self.name = name
        self.taken = False
        """Whether there has been something to take it from."""

    def __call__(self, network: nn.Module, arguments: object, output: object) -> Tensor | None:
        if isinstance(output, Tensor):  # as where an auxiliary head runs in training alone
            return None
        self.taken = True
        found = named_output(output, self.name)
        if found is None:
            raise FeatureMismatch(
                f"output is {self.name!r}, and {type(network).__name__} returns {kind_of(output)} without such a tensor; "
                f"{_choices(output, lambda _: None) or 'it has none'}"
            )
        return found


def take_output(network: nn.Module, name: str | int) -> TakeOutput:
    """Makes the network return the named tensor alone, from now on."""
    hook = TakeOutput(name)
    nn.Module.register_forward_hook(network, hook)  # TorchScript's own class hides the method, and calls the hook all the same
    return hook


def named_output(output: object, name: str | int) -> Tensor | None:
    for part in _parts(name):
        items = dict(_items(output))
        if part not in items:
            return None
        output = items[part]
    return output if isinstance(output, Tensor) else None


def require_output(network: nn.Module, output: object, refuses: Refuses) -> Tensor:
    """Gives the network's output; raises FeatureMismatch where it is refused, with what it has to be.

    refuses  as kd_hpo.core.tasks.Task has it
    """
    wanted = refuses(output) or one_tensor(output)
    if wanted is None and isinstance(output, Tensor):
        return output
    shape = f" {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    remedy = "" if shape else _choices(output, refuses)
    raise FeatureMismatch(
        f"{type(network).__name__} returns {kind_of(output)}{shape}, but a network here returns {wanted}; "
        f"{remedy or 'name a `package.module:callable` of yours that wraps it so'}"
    )


def one_tensor(output: object) -> str | None:
    """Tells what a network of any task returns; None where the output is that."""
    return None if isinstance(output, Tensor) else "its output alone, one tensor"


def require_taken(hook: TakeOutput, network: nn.Module, train: Callable[[], object]) -> None:
    """Refuses an `output` of a network that returns one tensor, in evaluation and, as `train` runs it, in training.

    Raises ConfigError.
    """
    if not hook.taken:
        try:
            train()
        except FeatureMismatch:
            raise
        except Exception:  # some networks can only evaluate
            pass
    if not hook.taken:
        raise ConfigError(f"output is {hook.name!r}, and {type(network).__name__} returns one tensor alone; omit it")


def kind_of(value: object) -> str:
    kind = "tensor" if isinstance(value, Tensor) else type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _choices(output: object, refuses: Refuses) -> str:
    """How to take one of its tensors, those first that the task accepts."""
    tensors = dict(_tensors(output))
    likely = [key for key, tensor in tensors.items() if refuses(tensor) is None] or list(tensors)
    if not tensors:
        return ""
    told = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items())
    return f"of its {told}, name one by the network's setting `output`, such as output: {likely[0]}"


def _tensors(output: object, before: str = "", nested: int = 2) -> Iterator[tuple[str, Tensor]]:
    for key, item in _items(output, aliases=False) if nested else ():
        if isinstance(item, Tensor):
            yield f"{before}{key}", item
        else:
            yield from _tensors(item, f"{before}{key}.", nested - 1)


def _items(value: object, *, aliases: bool = True) -> Iterator[tuple[str, Any]]:
    """By their names; with aliases, of a named tuple by the places too, and of any by the places counted from its end."""
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or map(str, range(len(value)))
        yield from zip(names, value, strict=False)
        for place, item in enumerate(value) if aliases else ():
            yield from ((str(place), item), (str(place - len(value)), item))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _parts(name: str | int) -> list[str]:
    return str(name).split(".")
