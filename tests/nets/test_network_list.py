"""Networks by a part of their name, or a glob."""

import pytest

from kd_hpo.errors import ConfigError
from kd_hpo.nets.network_list import networks_like
from kd_hpo.nets.zoo import build_network, network_names


def test_what_is_listed_can_be_built() -> None:
    for name in networks_like("*resnet18")["torchvision"]:
        build_network(name, {}, (3, 32, 32), 10, seed=0)


def test_a_part_of_a_name_or_a_glob_over_it_or_over_its_end() -> None:
    assert networks_like("ain_con") == {"own": ["plain_conv"]}
    assert networks_like("torchvision/resnet?8") == {"torchvision": ["torchvision/resnet18"]}
    assert networks_like("resnet1[0-9]")["torchvision"] == ["torchvision/resnet18"]
    assert "vgg11_bn" not in str(networks_like("vgg11"[:4] + "3*"))


def test_nothing_is_everything() -> None:
    assert networks_like("") == {source: names for source, names in network_names().items() if names}


@pytest.mark.parametrize(("pattern", "fact"), [("plain_konv", "plain_conv"), ("%%%", "glob")])
def test_no_match_names_the_nearest_or_tells_how_to_ask(pattern: str, fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        networks_like(pattern)
