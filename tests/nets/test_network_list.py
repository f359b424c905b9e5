"""Networks by a part of their name, or a glob."""

from kd_hpo.nets.network_list import networks_like
from kd_hpo.nets.zoo import build_network


def test_what_is_listed_can_be_built() -> None:
    for name in networks_like("*resnet18")["torchvision"]:
        build_network(name, {}, (3, 32, 32), 10, seed=0)
