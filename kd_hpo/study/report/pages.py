"""What a person looks at after a trial or a study: pages and pictures made of plain numbers, with no network or framework.

A page is one HTML file that runs in MLflow's sandboxed artifact frame. Titles and layer names are untrusted: they come
from modules and files that users name, so they reach a page only through `html.escape` or as JSON in a data block.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import matplotlib  # not later, in a thread: it parses code, and Python 3.11 fails where two threads do that at once
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Ten even samples of matplotlib's viridis, from weight 0 to the largest: monotone in lightness, safe for colour-blind eyes."""


@dataclass(frozen=True)
class MatrixHistory:
    """The pair weights of one trial, one (T, S) matrix an epoch, oldest first.

    Raises ValueError without an epoch, or if the shapes disagree. A weight that is not finite is kept and shown as nan.
    """

    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    epochs: tuple[int, ...]
    matrices: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        shape = (len(self.teacher_layers), len(self.student_layers))
        if not self.epochs or 0 in shape or len(self.epochs) != len(self.matrices):
            raise ValueError(
                f"MatrixHistory got {len(self.epochs)} epochs, {len(self.matrices)} matrices and layers {shape}; "
                "give one matrix an epoch, and at least one epoch, teacher layer and student layer."
            )
        for epoch, matrix in zip(self.epochs, self.matrices, strict=True):
            if len(matrix) != shape[0] or {len(row) for row in matrix} != {shape[1]}:
                lengths = [len(row) for row in matrix]
                raise ValueError(f"MatrixHistory got rows of {lengths} weights at epoch {epoch}; give (T, S) = {shape}.")


def matrix_page(title: str, history: MatrixHistory) -> str:
    """One HTML page: the matrix of an epoch with a slider over epochs, and the largest pairs over epochs. Opens at the last.

    Weights are written with six significant digits, so that a long trial of many pairs stays a small file.
    """
    data = {
        "teacher": history.teacher_layers,
        "student": history.student_layers,
        "epochs": history.epochs,
        "matrices": [[[_six_digits(weight) for weight in row] for row in matrix] for matrix in history.matrices],
        "scale": VIRIDIS,
    }
    template = Template(files("kd_hpo.study.report").joinpath("matrix.html").read_text(encoding="utf-8"))
    return template.substitute(title=_text(title), data=_json_in_html(data))


def matrix_image(
    title: str, teacher_layers: Sequence[str], student_layers: Sequence[str], matrix: ArrayLike, *, vmax: float
) -> NDArray[np.uint8]:
    """The same matrix as a picture, for a slider over epochs: (T, S) weights -> (400, 480, 3).

    vmax  the weight that the brightest colour stands for: the same at every epoch, or epochs cannot be compared
    Weights are printed in the cells up to 100 pairs. Drawn with PIL: about 5 ms, where matplotlib takes 70 to 220.
    Raises ValueError if the shape is not that of the layers, or vmax is not above 0.
    """
    from PIL import Image, ImageDraw

    weights = np.asarray(matrix, dtype=np.float64)
    rows, columns = len(teacher_layers), len(student_layers)
    if weights.shape != (rows, columns) or not weights.size:
        raise ValueError(f"matrix_image got a matrix {weights.shape} for layers {(rows, columns)}; give one weight a pair.")
    if not vmax > 0:
        raise ValueError(f"matrix_image got vmax={vmax}; give a weight above 0, such as 1.0, the same at every epoch.")

    width, height, ink, faint = 480, 400, (32, 33, 36), (95, 99, 104)
    small, bold = _font(11), _font(13, "DejaVuSans-Bold.ttf")
    teachers = [_fit(name, small, 130) for name in teacher_layers]
    left = 30 + round(max(small.getlength(name) for name in teachers))
    right, bottom = width - 58, height - 10
    xs = np.linspace(left, right, columns + 1).round().astype(int).tolist()
    level = all(small.getlength(_printable(name)) < xs[1] - xs[0] - 4 for name in student_layers)  # else on their side
    students = [_fit(name, small, xs[1] - xs[0] if level else 100) for name in student_layers]
    top = 58 + (14 if level else round(max(small.getlength(name) for name in students)))
    ys = np.linspace(top, bottom, rows + 1).round().astype(int).tolist()

    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)

    def sideways(x: float, y: float, text: str, colour: tuple[int, int, int]) -> None:
        """Text read upwards, centred on x, its end at y."""
        strip = Image.new("L", (math.ceil(small.getlength(text)) + 2, 16))
        ImageDraw.Draw(strip).text((0, 8), text, fill=255, font=small, anchor="lm")
        picture.paste(colour, (round(x) - 8, round(y)), strip.transpose(Image.Transpose.ROTATE_90))

    draw.text((12, 18), _fit(title, bold, width - 24), fill=ink, font=bold, anchor="lm")
    draw.text(((left + right) / 2, 42), "student layer", fill=faint, font=small, anchor="mm")
    sideways(12, (top + bottom - small.getlength("teacher layer")) / 2, "teacher layer", faint)
    for name, y0, y1 in zip(teachers, ys, ys[1:], strict=False):
        draw.text((left - 6, (y0 + y1) / 2), name, fill=ink, font=small, anchor="rm")
    for name, x0, x1 in zip(students, xs, xs[1:], strict=False):
        if level:
            draw.text(((x0 + x1) / 2, top - 10), name, fill=ink, font=small, anchor="mm")
        else:
            sideways((x0 + x1) / 2, top - 6 - small.getlength(name), name, ink)

    papers = colours(weights / vmax)
    roomy = xs[1] - xs[0] >= 40
    digits = _font(11 if roomy else 10)
    for t in range(rows):
        for s in range(columns):
            colour = tuple(papers[t, s].tolist())
            draw.rectangle((xs[s], ys[t], xs[s + 1] - 2, ys[t + 1] - 2), fill=colour)
            if rows * columns <= 100:
                middle = ((xs[s] + xs[s + 1]) / 2 - 1, (ys[t] + ys[t + 1]) / 2 - 1)
                value = f"{weights[t, s]:.3f}" if roomy else f"{weights[t, s]:.3f}".removeprefix("0")
                on_cell = ink_on(papers[t, s])
                zero = not value.strip("0.") and on_cell == "white"
                draw.text(middle, value, fill="#b7a5bd" if zero else on_cell, font=digits, anchor="mm")

    ramp = np.repeat(colours(np.linspace(1, 0, bottom - top - 1))[:, None], 12, axis=1)
    picture.paste(Image.fromarray(ramp), (right + 10, top))
    above = "≥" if np.nanmax(weights, initial=0) > vmax else ""
    draw.text((right + 26, top + 5), f"{above}{vmax:.2g}", fill=faint, font=_font(10), anchor="lm")
    draw.text((right + 26, bottom - 7), "0", fill=faint, font=_font(10), anchor="lm")
    return np.array(picture)


STATES = {
    "completed": '<circle r="4"/>',
    "stopped": '<path d="M-4.5,4 0,-4.5 4.5,4z"/>',
    "failed": '<path d="M-4,-4 4,4M-4,4 4,-4"/>',
}
"""How a trial ended: its marker, around (0, 0); the page's style gives the colour."""


def scatter_page(title: str, points: Sequence[Mapping[str, object]], settings: Sequence[str]) -> str:
    """One HTML page: accuracy against each outer setting, a panel a setting, in the order given.

    A point is a trial: `trial` its number, `state` one of STATES, `accuracy` in [0, 1] or None, and a value under the name
    of each setting. Positive numbers that span more than a decade get a log axis; words and booleans a slot each. A trial
    without a finite accuracy is marked below the axis; one without a setting's value is left out of that panel.
    Raises ValueError at a state that is not in STATES.
    """
    if unknown := sorted({str(point["state"]) for point in points} - set(STATES)):
        raise ValueError(f"scatter_page got the state {', '.join(unknown)}; give one of {', '.join(STATES)}.")
    finished = (p for p in points if p["state"] == "completed" and _finite(p.get("accuracy")))
    best = max(finished, key=_accuracy, default=None)
    counts = {state: sum(point["state"] == state for point in points) for state in STATES}
    key = "".join(
        f'<li class="{state}"><svg viewBox="-6 -6 12 12" width="14" height="14" aria-hidden="true">{marker}</svg>'
        f"{counts[state]} {state}</li>"
        for state, marker in STATES.items()
    )
    if best is not None:
        key += (
            '<li class="best"><svg viewBox="-9 -9 18 18" width="16" height="16" aria-hidden="true"><circle r="7.5"/></svg>'
            f"best completed: trial {_text(best['trial'])}, accuracy {_accuracy(best):.4g}</li>"
        )
    panels = "".join(_panel(name, points, best) for name in settings) if points else "<p>No trial has ended yet.</p>"
    return _SCATTER.substitute(title=_text(title), key=key, panels=panels)


def _panel(name: str, points: Sequence[Mapping[str, object]], best: Mapping[str, object] | None) -> str:
    """One setting's chart: a <figure> whose SVG is 300 x 200."""
    left, right, top, bottom, below = 40, 290, 10, 165, 178
    present = [p for p in points if p.get(name) is not None and (_finite(p[name]) or not isinstance(p[name], float))]
    log = False
    if all(_finite(p[name]) for p in present):
        values = [float(str(p[name])) for p in present] or [0.0]
        log = min(values) > 0 and max(values) > 10 * min(values)
        low, high, ticks = _log_axis(min(values), max(values)) if log else _linear_axis(values)
        bend = np.log if log else np.array
        place, marks = (np.interp(bend(some), bend([low, high]), [0, 1]).tolist() for some in (values, ticks))
        labels = [f"{tick:g}" for tick in ticks]
    else:
        slots = sorted({str(p[name]) for p in present})
        labels = [shorten(slot, max(4, 38 // len(slots))) for slot in slots]
        marks = [(i + 0.5) / len(slots) for i in range(len(slots))]
        spread = [(i * 0.618034 % 1 - 0.5) * 0.6 / len(slots) for i in range(len(present))]  # same slot, not same spot
        place = [marks[slots.index(str(p[name]))] + aside for p, aside in zip(present, spread, strict=True)]

    base, ceiling, heights = _linear_axis([_accuracy(p) for p in points if _finite(p.get("accuracy"))] or [0.0, 1.0])
    parts = [f'<path class="axis" d="M{left},{top}V{bottom}H{right}"/>']
    for height in heights:
        y = bottom - (height - base) / (ceiling - base) * (bottom - top)
        parts.append(f'<path class="grid" d="M{left},{y:.1f}H{right}"/><text x="{left - 6}" y="{y + 4:.1f}">{height:g}</text>')
    for mark, label in zip(marks, labels, strict=True):
        x = left + mark * (right - left)
        tick = f'<path class="axis" d="M{x:.1f},{bottom}v4"/>'
        parts.append(f'{tick}<text class="x" x="{x:.1f}" y="{bottom + 28}">{_text(label)}</text>')
    for point, at in sorted(zip(present, place, strict=False), key=lambda pair: pair[0]["state"] == "completed"):
        scored = _finite(point.get("accuracy"))
        y = bottom - (_accuracy(point) - base) / (ceiling - base) * (bottom - top) if scored else below
        ring = '<circle class="best" r="7.5"/>' if point is best else ""
        value = f"{point[name]:.4g}" if isinstance(point[name], float) else _text(point[name])
        told = f"accuracy {_accuracy(point):.4g}" if scored else "no accuracy"
        parts.append(
            f'<g class="{point["state"]}" data-trial="{_text(point["trial"])}" '
            f'transform="translate({left + at * (right - left):.1f},{y:.1f})">'
            f"<title>trial {_text(point['trial'])} ({point['state']}): {_text(name)} = {value}, "
            f"{told}</title>{STATES[str(point['state'])]}{ring}</g>"
        )
    notes = ["log axis"] if log else []
    if len(present) < len(points):
        notes.append(f"{len(points) - len(present)} without a value")
    caption = f"<b>{_text(name)}</b>{' <span>' + ', '.join(notes) + '</span>' if notes else ''}"
    opening = f'<svg viewBox="0 0 300 200" role="img" aria-label="accuracy against {_text(name)}: {len(present)} trials">'
    return f"<figure><figcaption>{caption}</figcaption>{opening}{''.join(parts)}</svg></figure>"


_SCATTER = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>
:root { color-scheme: light dark; --ink: #202124; --faint: #5f6368; --grid: #e4e6e9; --page: #fff;
  --completed: #0072b2; --stopped: #73777f; --failed: #c8501e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a4a9b0; --grid: #34373c; --page: #17181b;
  --completed: #5bb4ea; --stopped: #9298a1; --failed: #f08a5d; } }
body { margin: 0 auto; padding: 16px; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 18px; margin: 0 0 6px; overflow-wrap: anywhere; }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 12px; padding: 0; }
li { display: flex; align-items: center; gap: 6px; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(270px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; max-width: 420px; min-width: 0; }
figcaption { overflow-wrap: anywhere; } figcaption span, p { color: var(--faint); }
svg { display: block; overflow: visible; } figure svg { width: 100%; }
text { font-size: 11px; fill: var(--faint); text-anchor: end; } .x { text-anchor: middle; }
.axis { stroke: var(--faint); fill: none; } .grid { stroke: var(--grid); }
.completed { fill: var(--completed); fill-opacity: .75; stroke: var(--page); stroke-width: .8; }
.stopped { fill: none; stroke: var(--stopped); stroke-width: 1.5; pointer-events: all; }
.failed { fill: none; stroke: var(--failed); stroke-width: 2; pointer-events: all; }
.best circle, circle.best { fill: none; stroke: var(--ink); stroke-width: 1.5; }
li svg { fill-opacity: 1; } main.linked g:not(.same) { opacity: .15; }
</style></head><body>
<h1>$title</h1>
<ul>$key</ul>
<main>$panels</main>
<p>One mark is one trial: point at it to see its numbers and to find it in the other panels.
Marks below the axis never reached an accuracy.</p>
<script>
const main = document.querySelector('main'), marks = [...main.querySelectorAll('[data-trial]')];
const show = trial => {
  main.classList.toggle('linked', trial !== undefined);
  for (const mark of marks) mark.classList.toggle('same', mark.dataset.trial === trial);
};
main.addEventListener('pointerover', event => show(event.target.closest('[data-trial]')?.dataset.trial));
main.addEventListener('pointerleave', () => show());
</script></body></html>
""")


def _linear_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """(low, high, ticks): room around the values, ticks at steps of 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    low, high = low - room, high + room
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    return low, high, [float(f"{i * step:.10g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """The same for positive values: ticks at powers of ten, and at 3 times them where those are few."""
    room = (high / low) ** 0.06
    low, high = low / room, high * room
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [size * 10.0**power for power in decades for size in ((1, 3) if len(decades) < 5 else (1,))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return low, high, ticks[:: math.ceil(len(ticks) / 6)]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _accuracy(point: Mapping[str, object]) -> float:
    return float(str(point["accuracy"]))


def _six_digits(weight: float) -> float | None:
    return float(f"{weight:.6g}") if math.isfinite(weight) else None  # JSON has no nan


def _json_in_html(data: object) -> str:
    """JSON for a <script> data block: without <, > and &, no text in it can end the block."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _printable(text: object) -> str:
    """On one line, without control characters or lone surrogates."""
    letters = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in letters)


def _text(value: object) -> str:
    return escape(_printable(value))


def shorten(text: str, letters: int) -> str:
    """Without its middle: both ends of a layer's path tell it from others."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


@cache
def _font(size: int, name: str = "DejaVuSans.ttf") -> "FreeTypeFont":
    """The font that matplotlib brings, so that a picture is the same on every machine."""
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts/ttf", name)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _fit(text: str, font: "FreeTypeFont", width: float) -> str:
    text = shorten(_printable(text), 100)
    return next((short for n in range(len(text), 3, -1) if font.getlength(short := shorten(text, n)) <= width), text[:3])


def colours(position: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Positions (...) on the scale, cut to [0, 1] -> (..., 3); grey where not finite."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in VIRIDIS])
    places = np.linspace(0, 1, len(VIRIDIS))
    colour = np.stack([np.interp(position, places, stops[:, channel]) for channel in range(3)], axis=-1)
    return np.where(np.isfinite(position)[..., None], colour, 160).round().astype(np.uint8)


def ink_on(colour: NDArray[np.uint8]) -> str:
    """Black or white, whichever has more contrast (WCAG 2 relative luminance)."""
    channel = colour / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ np.array([0.2126, 0.7152, 0.0722]) > 0.179 else "white"
