"""Random views: each image is a moved, mirrored, punched or mixed copy of itself, as its generator says."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.data import augment
from kd_hpo.data.augment import AUGMENTATIONS, View, crop, cutout, flip, mixup, view


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(monkeypatch: pytest.MonkeyPatch, *values: list[int]) -> None:
    """torch.randint gives these instead."""
    given = iter(values)
    monkeypatch.setattr(augment.torch, "randint", lambda _, shape, **__: torch.tensor(next(given)).view(shape))


class TestFlip:
    def test_mirrors_about_half(self) -> None:
        x = torch.randn(200, 1, 4, 6)
        y = flip(x, generator())
        mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(x, y, strict=True)]
        same = [torch.equal(a, b) for a, b in zip(x, y, strict=True)]
        assert all(m != s for m, s in zip(mirrored, same, strict=True))
        assert 60 < sum(mirrored) < 140  # 5.7 deviations of sqrt(50)

    def test_by_hand(self) -> None:
        x = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).expand(20, 1, 2, 3)
        mirrored = torch.tensor([[3.0, 2, 1], [6, 5, 4]])
        for image in flip(x, generator()):
            assert torch.equal(image[0], x[0, 0]) or torch.equal(image[0], mirrored)


class TestCrop:
    def test_moves_each_image_by_at_most_an_eighth(self) -> None:
        x = torch.randn(300, 2, 16, 32)
        y = crop(x, generator())
        moves = []
        for image, moved in zip(x, y, strict=True):
            padded = F.pad(image, (4, 4, 2, 2))
            windows = [(i, j) for i in range(5) for j in range(9) if torch.equal(moved, padded[:, i : i + 16, j : j + 32])]
            assert len(windows) == 1
            moves += windows
        counts = torch.bincount(torch.tensor([9 * i + j for i, j in moves]), minlength=45).float()
        chi_square = ((counts - 300 / 45).square() / (300 / 45)).sum()  # 44 degrees of freedom: 44 +- 9.4
        assert len(counts) == 45
        assert chi_square < 44 + 5 * 9.4

    def test_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draws(monkeypatch, [0, 2, 1], [2, 0, 1])  # top: down 1, up 1, none; left: left 1, right 1, none
        x = torch.arange(64.0).view(1, 1, 8, 8).expand(3, 1, 8, 8) + 1
        y = crop(x, generator())
        down_left, up_right = torch.zeros(8, 8), torch.zeros(8, 8)
        down_left[1:, :-1] = x[0, 0, :-1, 1:]
        up_right[:-1, 1:] = x[0, 0, 1:, :-1]
        torch.testing.assert_close(y[:, 0], torch.stack([down_left, up_right, x[0, 0]]), rtol=0, atol=0)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_the_memory_format_stays(self, name: str, memory_format: torch.memory_format) -> None:
        x = torch.randn(4, 3, 16, 16).to(memory_format=memory_format)
        assert AUGMENTATIONS[name](x, generator()).is_contiguous(memory_format=memory_format)


class TestCutout:
    @pytest.mark.parametrize(
        ("centre", "rows", "columns"),
        [
            ((8, 8), slice(4, 12), slice(4, 12)),
            ((0, 15), slice(0, 4), slice(11, 16)),
            ((15, 1), slice(11, 16), slice(0, 5)),
        ],
    )
    def test_by_hand(self, monkeypatch: pytest.MonkeyPatch, centre: tuple[int, int], rows: slice, columns: slice) -> None:
        """A side of 8 about the centre c covers c - 4 to c + 3, as in the paper's code."""
        draws(monkeypatch, [centre[0]], [centre[1]])
        x = torch.randn(1, 3, 16, 16)
        expected = x.clone()
        expected[:, :, rows, columns] = 0
        assert torch.equal(cutout(x, generator()), expected)

    def test_an_image_that_is_no_square_loses_one_of_its_shorter_side(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draws(monkeypatch, [3], [10])
        hole = cutout(torch.ones(1, 1, 6, 20), generator())[0, 0] == 0  # side 3 about (3, 10)
        assert hole.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (9, 10, 11)]

    def test_every_pixel_is_a_centre_as_often(self) -> None:
        x = torch.ones(4000, 1, 8, 8)
        hidden = (cutout(x, generator()) == 0).float().mean((0, 1))
        covering = torch.tensor([3.0, 4, 4, 4, 4, 4, 3, 2]) / 8  # of 8 centres c, those whose c - 2 .. c + 1 has the pixel
        torch.testing.assert_close(hidden, covering[:, None] * covering, rtol=0, atol=5 * 0.5 / 4000**0.5)

    def test_the_images_given_are_left_alone(self) -> None:
        x = torch.ones(4, 1, 8, 8)
        cutout(x, generator())
        assert (x == 1).all()


class TestMixup:
    def test_each_image_is_mixed_with_the_one_whose_label_it_takes(self) -> None:
        x, labels = torch.randn(12, 1, 2, 2, dtype=torch.float64), torch.arange(12)
        mixed = mixup(x, labels, generator())
        assert torch.equal(mixed.labels, labels)
        assert sorted(mixed.partners.tolist()) == labels.tolist()
        for i, partner in enumerate(mixed.partners):
            torch.testing.assert_close(mixed.x[i], mixed.share * x[i] + (1 - mixed.share) * x[partner], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
    def test_shares_are_beta_distributed(self, alpha: float) -> None:
        x, random = torch.zeros(2, 1, 1, 1), generator()
        shares = torch.tensor([mixup(x, torch.zeros(2), random, alpha).share for _ in range(2000)])
        variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha), whose mean is 1/2
        assert ((shares >= 0) & (shares <= 1)).all()
        assert abs(shares.mean() - 0.5) < 5 * (variance / 2000) ** 0.5
        assert shares.var().item() == pytest.approx(variance, rel=0.15)

    def test_loss_of_labels_is_that_of_mixed_labels(self) -> None:
        """CE is linear in a soft label, so that it may be taken of share * onehot + (1 - share) * onehot'."""
        logits = torch.randn(5, 4, dtype=torch.float64, generator=generator())
        labels, partners, share = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 1, 0, 0, 2]), 0.3
        onehot = torch.eye(4, dtype=torch.float64)
        soft = share * onehot[labels] + (1 - share) * onehot[partners]
        expected = -(soft * logits.log_softmax(1)).sum(1).mean()
        actual = View(torch.zeros(5), labels, partners, share).over_labels(partial(F.cross_entropy, logits))
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)

    def test_cross_entropy_by_hand(self) -> None:
        logits = torch.tensor([[0.0, 3.0]], dtype=torch.float64).log1p()  # probabilities 1/5 and 4/5
        mixed = View(torch.zeros(1), torch.tensor([0]), torch.tensor([1]), 0.25)
        expected = 0.25 * torch.tensor(5.0, dtype=torch.float64).log() + 0.75 * torch.tensor(1.25, dtype=torch.float64).log()
        torch.testing.assert_close(mixed.over_labels(partial(F.cross_entropy, logits)), expected)

    def test_plain_cross_entropy_reads_no_partner(self) -> None:
        logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
        none = torch.full((5,), 99)  # out of range, if it were read
        assert torch.equal(
            View(torch.zeros(5), labels, none, 1.0).over_labels(partial(F.cross_entropy, logits)), F.cross_entropy(logits, labels)
        )


class TestView:
    x, labels = torch.randn(30, 3, 8, 8), torch.arange(30) % 7

    @pytest.mark.parametrize("names", [["flip"], ["crop"], ["cutout"], ["mixup"], ["flip", "crop", "cutout", "mixup"]], ids=str)
    def test_same_generator_state_same_view(self, names: list[str]) -> None:
        one, same, other = (view(self.x, self.labels, names, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.partners, same.partners)
        assert one.share == same.share
        assert not torch.equal(one.x, other.x)

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        view(self.x, self.labels, ["flip", "crop", "cutout", "mixup"], generator())
        assert torch.equal(torch.get_rng_state(), before)

    def test_no_names(self) -> None:
        plain = view(self.x, self.labels, [], generator())
        assert plain.x is self.x
        assert (plain.labels is self.labels, plain.partners is self.labels, plain.share) == (True, True, 1.0)

    def test_names_are_followed_in_order(self) -> None:
        random = generator()
        expected = cutout(crop(self.x, random), random)
        assert torch.equal(view(self.x, self.labels, ["crop", "cutout"], generator()).x, expected)

    def test_mixup_is_last(self) -> None:
        def alike(one: View, other: View) -> bool:
            return torch.equal(one.x, other.x) and torch.equal(one.partners, other.partners) and one.share == other.share

        random = generator()
        expected = mixup(flip(self.x, random), self.labels, random)
        for names in (["flip", "mixup"], ["mixup", "flip"]):
            assert alike(view(self.x, self.labels, names, generator()), expected)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_the_device_changes_nothing(self) -> None:
        def on(device: str) -> tuple[Tensor, Tensor, float]:
            seen = view(self.x.to(device), self.labels.to(device), ["flip", "crop", "cutout", "mixup"], generator())
            assert (seen.x.device.type, seen.partners.device.type) == (device, device)
            return seen.x.cpu(), seen.partners.cpu(), seen.share

        for a, b in zip(on("cpu")[:2], on("cuda")[:2], strict=True):
            torch.testing.assert_close(a, b)
        assert on("cpu")[2] == on("cuda")[2]
