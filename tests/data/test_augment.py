"""Random views: every image is a moved or mirrored copy of itself, as its generator says."""

import pytest
import torch

from kd_hpo.data.augment import AUGMENTATIONS, augmented, crop, flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_about_half() -> None:
    x = torch.randn(200, 1, 4, 6)
    y = flip(x, generator())
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(x, y, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(x, y, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


def test_crop_moves_each_image_by_at_most_an_eighth() -> None:
    x = torch.randn(50, 2, 16, 32)
    y = crop(x, generator())
    moves = set()
    for image, view in zip(x, y, strict=True):
        padded = torch.nn.functional.pad(image, (4, 4, 2, 2))
        windows = {(i, j) for i in range(5) for j in range(9) if torch.equal(view, padded[:, i : i + 16, j : j + 32])}
        assert len(windows) == 1
        moves |= windows
    assert len(moves) > 20


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seeded(name: str) -> None:
    x = torch.randn(30, 3, 8, 8)
    assert torch.equal(augmented(x, [name], generator(1)), augmented(x, [name], generator(1)))
    assert not torch.equal(augmented(x, [name], generator(1)), augmented(x, [name], generator(2)))
