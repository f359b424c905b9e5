"""The names of layers, read and matched."""

import pytest
import torch

from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.layer_syntax import LayerName, input_tensor, parse_layer, tensors_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer1.0.bn2", LayerName("layer1.0.bn2")),
        ("fc:input", LayerName("fc", tensor=":input")),
        ("relu#12", LayerName("relu", 12)),
        ("relu#2:input", LayerName("relu", 2, ":input")),
        ("encoder[0]", LayerName("encoder", tensor="[0]")),
        ("encoder#2[states][1]", LayerName("encoder", 2, "[states][1]")),
        ("blocks.*[0]", LayerName("blocks.*", tensor="[0]")),
    ],
)
def test_reads_a_name(text: str, expected: LayerName) -> None:
    assert parse_layer(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["", "fc:output", "relu#0", "relu#", "a[0", "a[]", "a[0][1][2]", "a[0]:input", "a:input#2", ":input"]
)
def test_refuses_what_names_no_layer(text: str) -> None:
    with pytest.raises(FeatureMismatch, match="does not name a layer"):
        parse_layer(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("layer*", ["layer1", "layer12", "layer"], ["layer1.0", "alayer1"]),
        ("features.*.conv", ["features.0.conv"], ["features.conv", "features.0.1.conv", "features.0xconv"]),
        ("features.**", ["features.0", "features.0.conv"], ["features", "featuresX0"]),
        ("**.conv?", ["a.conv1", "a.b.conv2"], ["conv1", "a.conv", "a.conv12", "a.conv.1.x"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_a_star_stops_at_a_dot_and_two_do_not(pattern: str, matching: list[str], other: list[str]) -> None:
    name = parse_layer(pattern)
    assert [path for path in matching + other if name.matches(path)] == matching
    assert name.is_glob == (pattern != "a.b")


def test_tensors_by_what_is_written_after_the_name() -> None:
    a, b, c = torch.zeros(3)
    assert tensors_in(a) == {"": a}
    assert list(tensors_in({"x": a, "y": (b, [c]), 3: c, "none": None})) == ["[x]", "[y][0]", "[3]"]
    assert tensors_in([[[a]]]) == tensors_in("ab") == tensors_in(None) == {}


def test_input_is_the_first_tensor_argument() -> None:
    a, b = torch.zeros(1), torch.zeros(2)
    assert input_tensor((None, a), {"x": b}) == {":input": a}
    assert input_tensor(([a],), {"scale": 2.0, "x": b}) == {":input": b}
    assert input_tensor((), {}) == {}
