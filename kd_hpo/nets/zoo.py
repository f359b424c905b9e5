"""Networks by name: kd_hpo's own, torchvision's, timm's, and any callable of a user's."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kd_hpo.callables import import_callable
from kd_hpo.core.tasks import Classification
from kd_hpo.errors import ConfigError, FeatureMismatch, KdHpoError
from kd_hpo.nets.cifar import cifar_resnet, cifar_resnet50, cifar_vgg, wide_resnet
from kd_hpo.nets.cifar_mobile import cifar_mobilenetv2, cifar_shufflenetv1, cifar_shufflenetv2
from kd_hpo.nets.features import dry_run
from kd_hpo.nets.libraries import (
    build_timm,
    build_torchvision,
    is_timm_name,
    timm_is_installed,
    timm_names,
    torchvision_names,
)
from kd_hpo.nets.outputs import require_output, require_taken, take_output
from kd_hpo.nets.plain_conv import PlainConv
from kd_hpo.nets.wrappers import in_dtype, unwrapped

Shape = tuple[int, int, int]


def _published(build: Callable[..., nn.Module], **fixed: int) -> Callable[..., nn.Module]:
    """A network of the family; an argument that is fixed cannot be given again."""
    return lambda input_shape, classes, **arguments: build(input_shape, classes, **fixed, **arguments)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "plain_conv": PlainConv,
    "cifar_resnet": cifar_resnet,
    **{f"resnet{depth}": _published(cifar_resnet, depth=depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _published(cifar_resnet, depth=depth, width=4, stem_channels=32) for depth in (8, 32)},
    "wrn": wide_resnet,
    **{f"wrn_{depth}_{width}": _published(wide_resnet, depth=depth, width=width) for depth in (16, 40) for width in (1, 2)},
    "cifar_vgg": cifar_vgg,
    "vgg8": _published(cifar_vgg, depth=8),
    "cifar_vgg13": _published(cifar_vgg, depth=13),
    "cifar_resnet50": cifar_resnet50,
    "cifar_mobilenetv2": cifar_mobilenetv2,
    "cifar_shufflenetv1": cifar_shufflenetv1,
    "cifar_shufflenetv2": cifar_shufflenetv2,
}
"""kd_hpo's own: called with (C, H, W), the number of classes, and the arguments."""


def build_network(
    name: str,
    arguments: Mapping[str, Any],
    input_shape: Shape,
    classes: int,
    *,
    seed: int,
    pretrained: bool | str = False,
    output: str | int | None = None,
    refuses: Callable[[object], str | None] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> nn.Module:
    """A network that reads (B, C, H, W) and returns what its task wants; its fresh weights depend on the seed alone.

    name        a name of `network_names`, `torchvision/NAME`, `timm/NAME`, or `package.module:callable`. A bare name is of
                the first that has it: kd_hpo, torchvision, timm
    arguments   what its builder takes; libraries' networks also take `stem: small` for images of about 32x32
    pretrained  the weights that the library has for it: True for its default ones, or the name of others
    output      which of the tensors that the network returns is its output, where it returns more than one (`TakeOutput`)
    refuses     what the task says of an output (`kd_hpo.core.tasks.Task`); None wants the logits of so many classes
    tell        is told what has been done to the network so that it fits here

    Raises ConfigError for an unknown name, arguments that the network does not take, weights that cannot be had, or images
    that it cannot read. An error inside a user's callable goes on as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ":" in name:
            _require_fresh(name, pretrained)
            network = _build_callable(name, arguments, input_shape, classes)
        else:
            network = _build_named(name, arguments, input_shape, classes, pretrained)
    network = in_dtype(unwrapped(network, name, tell), name, tell)
    try:
        hook = None if output is None else take_output(network, output)
        require_output(network, dry_run(network, input_shape), refuses or Classification(classes).refuses)
        if hook is not None:
            require_taken(hook, network, lambda: dry_run(network, input_shape, training=True))
    except FeatureMismatch as error:
        library = ":" not in name and name not in NETWORKS
        small = library and "stem" not in arguments and "cannot read images" in str(error)
        hint = "; the argument stem: small keeps small images larger" if small else ""
        raise ConfigError(f"network {name!r}: {error}{hint}") from error
    return network


def network_names() -> dict[str, list[str]]:
    """All names, by where they are from, libraries' with their prefix; none of timm's where it is not installed."""
    libraries = {"torchvision": torchvision_names(), "timm": timm_names()}
    return {"own": list(NETWORKS)} | {library: [f"{library}/{n}" for n in names] for library, names in libraries.items()}


def _build_named(name: str, arguments: Mapping[str, Any], input_shape: Shape, classes: int, pretrained: bool | str) -> nn.Module:
    library, _, bare = name.rpartition("/")
    try:
        if name in NETWORKS:
            _require_fresh(name, pretrained)
            return NETWORKS[name](input_shape, classes, **arguments)
        if library in ("", "torchvision") and bare in torchvision_names():
            return build_torchvision(bare, arguments, input_shape, classes, pretrained)
        if library in ("", "timm") and is_timm_name(bare):
            return build_timm(bare, arguments, input_shape, classes, pretrained)
        raise _unknown(name)
    except KdHpoError:
        raise
    except Exception as error:
        given = f"{dict(arguments)}{' and pretrained weights' if pretrained else ''}"
        remedy = ""
        if pretrained and isinstance(error, OSError):
            remedy = "; they are downloaded at first use: connect for that one, or name a file of weights"
        elif isinstance(error, TypeError) and "multiple values" in str(error):
            remedy = "; the name fixes that one: take its family, such as cifar_resnet or timm.models:MlpMixer"
        raise ConfigError(f"network {name!r} cannot be built with {given}: {_one_line(error)}{remedy}") from error


def _build_callable(reference: str, arguments: Mapping[str, Any], input_shape: Shape, classes: int) -> nn.Module:
    build = import_callable(reference)
    try:
        signature = inspect.signature(build)
        given = _offered(signature, input_shape, classes) | dict(arguments)
        signature.bind(**given)
    except (TypeError, ValueError) as error:  # ValueError: a builtin without a signature
        raise ConfigError(f"network {reference!r} cannot be called with {dict(arguments)}: {error}") from error
    try:
        network = build(**given)
    except Exception as error:
        error.add_note(f"network {reference!r} was called with {given}")
        raise
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network {reference!r} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _offered(signature: inspect.Signature, input_shape: Shape, classes: int) -> dict[str, Any]:
    """The data set's shapes under the names that the callable has for them: ours, or those of torchvision and timm."""
    channels, height, width = input_shape
    size = height if height == width else (height, width)
    ours: dict[str, Any] = {"input_shape": input_shape, "classes": classes}
    usual = {"num_classes": classes, "in_channels": channels, "in_chans": channels, "image_size": size, "img_size": size}
    parameters = signature.parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {n: v for n, v in ours.items() if n in parameters or any_name} | {n: v for n, v in usual.items() if n in parameters}


def _require_fresh(name: str, pretrained: bool | str) -> None:
    if pretrained:
        raise ConfigError(
            f"network {name!r} comes without weights, so pretrained: {pretrained} has nothing to take; only networks of "
            "torchvision and timm have them: omit it, or name a file of weights"
        )


def _unknown(name: str) -> ConfigError:
    known = [each for names in network_names().values() for each in names]
    if "/" not in name:
        known = list(dict.fromkeys(each.rpartition("/")[2] for each in known))
    near = difflib.get_close_matches(name, known, 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    timm = "" if timm_is_installed() else "; timm, which has many more, is not installed: pip install 'kd_hpo[timm]'"
    return ConfigError(f"no network is called {name!r}{hint} kd-hpo networks lists them{timm}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
