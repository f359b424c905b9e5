"""The classification networks of torchvision and timm, for any channels, classes and image sizes that they can be built for."""

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.adapt import set_channels, set_classes, set_image_size, shrink_stem

Shape = tuple[int, int, int]


def torchvision_names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def timm_names() -> tuple[str, ...]:
    """The names of timm's networks; empty where timm is not installed."""
    return tuple(_timm().list_models()) if timm_is_installed() else ()


def timm_is_installed() -> bool:
    return importlib.util.find_spec("timm") is not None


def is_timm_name(name: str) -> bool:
    """Whether timm, if installed, has the network `name` or `name.tag`."""
    return timm_is_installed() and bool(_timm().is_model(name))


def build_torchvision(
    name: str, arguments: Mapping[str, Any], input_shape: Shape, classes: int, pretrained: bool | str
) -> nn.Module:
    """Builds a network of torchvision; arguments are of its builder, and `stem: small` (`shrink_stem`).

    A pretrained network keeps its head where it has as many classes. Raises ConfigError for an unknown name of weights or
    an image size that the network cannot have; torchvision raises what it likes for the rest.
    """
    from torchvision import models

    arguments, small = _without_stem(arguments)
    channels, height, width = input_shape
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if height != width or height % patch:
            raise ConfigError(
                f"network {name!r} reads square images whose side is a multiple of {patch}, not {height}x{width}; "
                "give such images, or take a ViT of timm with another patch_size"
            )
    if not pretrained:
        own: dict[str, Any] = {"num_classes": classes}
        if name.startswith("vit_"):
            own["image_size"] = height
        if name.startswith("maxvit_"):
            own["input_size"] = (height, width)
        if name in ("googlenet", "inception_v3"):
            own |= {"aux_logits": False, "init_weights": True}
        network: nn.Module = models.get_model(name, **own, **arguments)
    else:
        weights = _torchvision_weights(name, pretrained)
        network = models.get_model(name, weights=weights, progress=False, **arguments)
        if name == "inception_v3":  # torchvision builds it with the auxiliary head that its weights have
            network.aux_logits, network.AuxLogits = False, None  # type: ignore[assignment]
        if name.startswith("vit_"):
            set_image_size(network, height)
        set_classes(network, len(weights.meta["categories"]), classes)
    set_channels(network, channels, pretrained=bool(pretrained))
    if small:
        shrink_stem(network)
    return network


def build_timm(name: str, arguments: Mapping[str, Any], input_shape: Shape, classes: int, pretrained: bool | str) -> nn.Module:
    """Builds a network of timm by `name` or `name.tag`; arguments are of its create_model, and `stem: small` (`shrink_stem`).

    `img_size` is the images' where the network has one size. Raises ConfigError where there are no such pretrained weights;
    timm raises what it likes for the rest.
    """
    timm = _timm()
    if refused := {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"} & arguments.keys():
        raise ConfigError(
            f"{', '.join(sorted(refused))} cannot be given: some versions of timm run code from such a file; give it as `weights`"
        )
    arguments, small = _without_stem(arguments)
    channels, height, width = input_shape
    name = _with_tag(name, pretrained)
    _require_timm_weights(name, pretrained)
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        arguments = {"img_size": (height, width)} | arguments
    network: nn.Module = timm.create_model(name, pretrained=bool(pretrained), num_classes=classes, in_chans=channels, **arguments)
    if small:
        shrink_stem(network)
    return network


def statistics_of_weights(
    name: str, network: nn.Module, pretrained: bool | str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and std, of pixels from 0 to 1, of the images that a library's weights were trained on.

    network  as it was built: one of timm's says it itself
    None where no library says it. Raises ConfigError for weights that torchvision does not have.
    """
    said = getattr(network, "pretrained_cfg", None)
    if isinstance(said, Mapping) and said.get("mean") and said.get("std"):
        return tuple(said["mean"]), tuple(said["std"])
    library, _, bare = name.rpartition("/")
    if ":" in name or library not in ("", "torchvision") or bare not in torchvision_names():
        return None
    shown = _torchvision_weights(bare, pretrained or True).transforms()
    return tuple(shown.mean), tuple(shown.std)


def input_of_weights(name: str, pretrained: bool | str) -> tuple[tuple[int, int], str] | None:
    """The height and width, and the interpolation, of the images that a library's weights read, by the network's name.

    None where no library says it. Raises ConfigError for weights that torchvision does not have.
    """
    library, _, bare = name.rpartition("/")
    if ":" in name:
        return None
    if library in ("", "torchvision") and bare in torchvision_names():
        shown = _torchvision_weights(bare, pretrained or True).transforms()
        return (shown.crop_size[0], shown.crop_size[0]), shown.interpolation.value
    settings = _timm().get_pretrained_cfg(_with_tag(bare, pretrained)) if is_timm_name(bare) else None
    if settings is None:
        return None
    _, height, width = settings.input_size
    return (height, width), settings.interpolation


def _with_tag(name: str, pretrained: bool | str) -> str:
    """The name of timm's with that of the weights."""
    return f"{name.partition('.')[0]}.{pretrained.rpartition('.')[2]}" if isinstance(pretrained, str) else name


def _without_stem(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    stem = arguments.get("stem")
    if stem not in (None, "small"):
        raise ConfigError(f"stem: {stem} is not known; write stem: small, for images of about 32x32, or omit it")
    return {name: value for name, value in arguments.items() if name != "stem"}, stem is not None


def _torchvision_weights(name: str, pretrained: bool | str) -> Any:
    from torchvision.models import get_model_weights

    known = get_model_weights(name)
    wanted = "DEFAULT" if pretrained is True else str(pretrained).rpartition(".")[2]
    if wanted not in known.__members__:
        raise ConfigError(f"network {name!r} has no weights {pretrained!r}; it has {', '.join(known.__members__) or 'none'}")
    return known[wanted]


def _require_timm_weights(name: str, pretrained: bool | str) -> None:
    timm = _timm()
    architecture, _, tag = name.partition(".")
    known = [each for each in timm.models.get_arch_pretrained_cfgs(name) if timm.models.is_model_pretrained(each)]
    if (tag and name not in known) or (pretrained and not known):
        raise ConfigError(
            f"network {architecture!r} has no pretrained weights {tag or pretrained!r} in timm; "
            f"it has {', '.join(each.partition('.')[2] for each in known) or 'none'}"
        )


def _timm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm compiles functions by torch.jit as it is imported
        return importlib.import_module("timm")
