"""Random views by torchvision's transforms (v2), or by callables of a user's own, as steps of kd_hpo.data.augment.

They draw from global generators, one set of numbers for all that they are given. Here each image comes to them by itself, with
every generator seeded by a number that was drawn for it: a view depends on that alone, and global generators are left alone.
"""

import difflib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from kd_hpo.callables import import_callable
from kd_hpo.data.augment import Augmentation, Mixing, View
from kd_hpo.errors import ConfigError

Shape = tuple[int, int, int]
_MIXING = ("MixUp", "CutMix")
_CHOOSING = ("RandomChoice", "RandomApply")
"""What may be around those."""
_ON_NUMBERS = ("RandomErasing",)
"""What sees the numbers that networks read, after normalisation, as training scripts have it."""
_SEEDS = 2**31


def transform(name: str, arguments: Mapping[str, Any], shape: Shape, mean: Tensor, std: Tensor) -> Augmentation | Mixing:
    """Makes a step of a random view from a transform of torchvision's, or from what a callable of one's own returns.

    name       of torchvision.transforms.v2, or `package.module:callable`, which is called with the arguments
    shape      (C, H, W), of the images
    mean, std  (C, 1, 1), the normalisation of what comes in and goes out
    Raises ConfigError for an unknown name, for arguments that it does not take, and where it does not give such images.
    """
    if _mixes(name, arguments):
        mix = _Mix(name, arguments, shape)
        _tried(name, lambda: mix(torch.zeros(2, *shape), torch.arange(2), Generator().manual_seed(0)))
        return mix
    made = _made(name, arguments, shape)
    each = partial(_change, name, made, None if name in _ON_NUMBERS else (mean, std))
    _tried(name, lambda: each(torch.zeros(2, *shape).to(mean), torch.zeros(2, 1, dtype=torch.int64)))
    return Augmentation(_draw, each)


def _draw(count: int, height: int, width: int, generator: Generator) -> Tensor:
    return torch.randint(_SEEDS, (count, 1), generator=generator)


def _change(
    name: str, made: Callable[[Tensor], Any], normalisation: tuple[Tensor, Tensor] | None, x: Tensor, seeds: Tensor
) -> Tensor:
    """The images (B, C, H, W), each changed as its seed (B, 1) says."""
    images = x
    if normalisation:  # whole levels, which come back as they were
        images = (x * normalisation[1] + normalisation[0]).round_().clamp_(0, 255).to(torch.uint8)
    changed = []
    with chance_kept(x.device):
        for image, seed in zip(images, seeds.flatten().tolist(), strict=True):
            seed_all(seed, x.device)
            changed.append(_checked(name, made(image), image))
    y = torch.stack(changed).to(x)
    if normalisation:
        y = y.sub_(normalisation[0]).div_(normalisation[1])
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _checked(name: str, given: Any, image: Tensor) -> Tensor:
    if isinstance(given, Tensor) and (given.shape, given.dtype) == (image.shape, image.dtype):
        return given.as_subclass(Tensor)
    what = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise ConfigError(
        f"augment: {name} gives {what} for an image of {image.dtype} {tuple(image.shape)}; it should give an image of that type "
        "and size: normalisation is that of data.normalise, and a size that is not given is the images' own"
    )


class _Mix:
    """Mixes the images of a batch by a transform of torchvision's, whose labels tell of which images each is made."""

    def __init__(self, name: str, arguments: Mapping[str, Any], shape: Shape) -> None:
        self._name, self._arguments, self._shape = name, arguments, shape
        self._made: dict[int, Callable[..., Any]] = {}

    def __call__(self, x: Tensor, labels: Tensor, generator: Generator) -> View:
        seed, size = int(torch.randint(_SEEDS, (), generator=generator)), len(x)
        if size not in self._made:  # each image is a class of its own
            self._made[size] = _made(self._name, self._arguments, self._shape, classes=size)
        with chance_kept(x.device):
            seed_all(seed, x.device)
            mixed, shares = self._made[size](x, torch.arange(size))
        if shares.dim() == 1:  # it did not mix this time
            return View(x, labels, labels, 1.0)
        share = float(shares[0, 0])
        partners = shares.fill_diagonal_(0).argmax(1).to(labels.device)
        return View(mixed, labels, labels[partners], share)


# ---- chance


@contextmanager
def chance_kept(device: torch.device) -> Iterator[None]:
    """Leaves the global generators of torch, numpy and Python as they were, whatever is drawn inside."""
    torchs, own, numpys = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cudas = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        random.setstate(own)
        np.random.set_state(numpys)
        if cudas is not None:
            torch.cuda.set_rng_state(cudas, device)


def seed_all(seed: int, device: torch.device) -> None:
    """Seeds the global generators of torch, numpy and Python, that of the device among them."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a thousand times as long
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


# ---- by name


def _mixes(name: Any, arguments: Any) -> bool:
    if name in _MIXING:
        return True
    inside = [_named(each) for each in arguments.get("transforms", ())] if isinstance(arguments, Mapping) else []
    found = [_mixes(*each) for each in inside]
    if any(found) and (not all(found) or name not in _CHOOSING):
        raise ConfigError(
            f"augment: {name} is around a transform that mixes images; only {' and '.join(_CHOOSING)} may be, around such alone"
        )
    return any(found)


def _made(name: str, arguments: Mapping[str, Any], shape: Shape, *, classes: int | None = None) -> Callable[..., Any]:
    if ":" in name:
        made = import_callable(name)(**arguments)
        if not callable(made):
            raise ConfigError(
                f"augment: {name} returned a {type(made).__name__}; it is called with its arguments, and should return a "
                "callable that takes an image, uint8 (C, H, W), and gives one"
            )
        return made  # type: ignore[no-any-return]
    build = _of_torchvision(name)
    if "num_classes" in arguments and name in _MIXING:
        raise ConfigError(f"augment: {name} is given num_classes, which is the data's; leave it out")
    given = dict(arguments)
    if "transforms" in given:
        given["transforms"] = [_made(*_named(each), shape, classes=classes) for each in given["transforms"]]
    takes = inspect.signature(build).parameters
    if "size" in takes and takes["size"].default is inspect.Parameter.empty:
        given = {"size": shape[1:], **given}
    if name in _MIXING:
        given["num_classes"] = classes
    return _tried(name, lambda: build(**_with_enums(given)))  # type: ignore[no-any-return]


def _of_torchvision(name: str) -> Callable[..., Any]:
    from torchvision.transforms import v2

    known = {key: value for key, value in vars(v2).items() if isinstance(value, type) and issubclass(value, v2.Transform)}
    if name in known:
        return known[name]
    lower = {each.lower(): each for each in known}
    near = " or ".join(lower[each] for each in difflib.get_close_matches(name.lower(), lower, 3))
    raise ConfigError(
        f"augment: no transform of torchvision.transforms.v2 is called {name!r}{f'; did you mean {near}?' if near else ''} One "
        "of your own is package.module:callable"
    )


def _with_enums(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What Python scripts give as members of enumerations stands in files by name."""
    from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

    kinds = {"interpolation": InterpolationMode, "policy": AutoAugmentPolicy}
    return {key: kinds[key](value) if key in kinds and isinstance(value, str) else value for key, value in arguments.items()}


def _named(spec: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of a transform inside another one."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str) and not spec.keys() - {"name", "arguments"}:
        return spec["name"], spec.get("arguments") or {}
    raise ConfigError(
        f"augment: {spec!r} inside of another transform should be a mapping with a name, and arguments if it has any"
    )


def _tried(name: str, make: Callable[[], Any]) -> Any:
    """Raises ConfigError with whatever the transform says."""
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"augment: {name} cannot be used on these images: {said}") from error
