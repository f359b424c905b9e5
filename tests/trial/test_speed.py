"""How fast steps are under each choice of settings, and which choice pays."""

from kd_hpo.trial.speed import Speed, what_pays


def speed(name: str, ratios: tuple[float, ...], first_s: float = 0.0) -> Speed:
    return Speed(name, {}, tuple(10 * ratio for ratio in ratios), ratios, first_s)


def test_what_pays_is_faster_in_every_block_over_the_whole_trial() -> None:
    own, cannot = speed("as it is", (1, 1, 1)), Speed("compile", {}, (), (), 0.0, "no compiler")
    fast, unsure, slow_start = (
        speed("fast", (0.8, 0.9, 0.85)),
        speed("unsure", (0.5, 0.6, 1.1)),
        speed("slow", (0.5, 0.5, 0.5), 60),
    )
    assert what_pays([own, cannot, unsure], 1000) is None
    assert what_pays([own, fast, unsure, slow_start], 1000) is fast  # 10 s, 8.5 s, -, 65 s
    assert what_pays([own, fast, slow_start], 100_000) is slow_start  # 1000 s, 850 s, 560 s
