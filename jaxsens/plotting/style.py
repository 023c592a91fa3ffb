"""What every figure shares: fonts, colours, ticks of logarithmic axes, files."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from jaxsens.table import write_atomically

__all__ = ["GREY", "INK", "RC", "Look", "log_ticks", "look", "save_figure", "set_linear_axis", "set_log_axis"]

INK = "#333333"
GREY = "#777777"

# Inches that a tick's label and a gap take on a horizontal axis: in powers of ten, and in plain digits.
WIDE_LABEL, PLAIN_LABEL = 0.5, 0.34

# Okabe and Ito (2008), told apart under every common colour blindness; their yellow is too pale for points.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Two more than there are colours, so that the first 63 families differ in colour or marker.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


class Look(NamedTuple):
    """How the points of one family are drawn."""

    colour: str
    marker: str
    hollow: bool

    @property
    def size(self) -> float:
        """In points. A filled cross loses most of its arms to the white edge."""
        crossed = self.marker in "PX"
        return 4.0 if self.hollow else 5.6 if crossed else 4.4


def look(index: int) -> Look:
    """The look of family number `index`: filled markers until the colours are used up, then hollow ones."""
    rounds = index // len(COLOURS)
    return Look(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], rounds % 2 == 1)


RC: Mapping[Any, Any] = MappingProxyType(
    {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "mathtext.fontset": "dejavusans",
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.minor.size": 1.6,
        "ytick.minor.size": 1.6,
        "legend.frameon": False,
        # Letters as fonts, which journals ask for, not as outlines.
        "pdf.fonttype": 42,
    }
)


def log_ticks(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Major and minor ticks of a logarithmic axis from low to high: two labels or more, seldom above eight.

    Under 0.7 decades even steps, which are read off more easily than decades; to 2.5 decades 1, 2 and 5;
    above that powers of ten, every second or third one where there are many.
    """
    decades = np.log10(high / low)
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    every = np.outer(10.0**powers, np.arange(1, 10)).ravel()
    if decades < 0.7:
        raw = (high - low) / 7
        step = 10.0 ** np.floor(np.log10(raw))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
        major = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
        minor = step / 2 * np.arange(np.ceil(2 * low / step), np.floor(2 * high / step) + 1)
    elif decades < 2.5:
        major, minor = np.outer(10.0**powers, (1, 2, 5)).ravel(), every
    else:
        stride = int(np.ceil(decades / 7))
        major = 10.0 ** powers[powers % stride == 0]
        minor = every if stride == 1 else 10.0**powers
    major, minor = (
        ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))] for ticks in (major, minor)
    )
    return major, minor[~np.isclose(minor[:, None], major, rtol=1e-9, atol=0).any(axis=1)]


def set_log_axis(axis: Axis, low: float, high: float, *, room: float = np.inf) -> None:
    """Gives one axis a logarithmic scale from low to high, with the ticks of `log_ticks`.

    A horizontal axis in a small panel has `room` inches: labels that would touch there become minor ticks.
    """
    _set_scale(axis, "log", low, high)
    major, minor = log_ticks(low, high)
    plain = bool(major.size) and major.min() >= 1e-3 and major.max() < 1e4
    labelled = major[_spaced(major, room / (PLAIN_LABEL if plain else WIDE_LABEL))]
    axis.set_major_locator(FixedLocator(labelled.tolist()))
    axis.set_minor_locator(FixedLocator(np.sort(np.append(minor, np.setdiff1d(major, labelled))).tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if plain else power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


def set_linear_axis(axis: Axis, low: float, high: float, *, room: float = np.inf) -> None:
    """Gives one axis a linear scale from low to high; seven round ticks at most, fewer in little room."""
    _set_scale(axis, "linear", low, high)
    intervals = max(int(min(6, room / WIDE_LABEL - 1)), 2)
    ticks = np.asarray(MaxNLocator(nbins=intervals, steps=[1, 2, 5, 10]).tick_values(low, high))
    axis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)].tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _set_scale(axis: Axis, scale: str, low: float, high: float) -> None:
    axes = axis.axes
    across = isinstance(axis, XAxis)
    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if across else (axes.set_yscale, axes.set_ylim)
    set_scale(scale)
    set_limits(low, high)


def _spaced(major: np.ndarray, most: float) -> np.ndarray:
    """Which ticks keep their labels where there is room for `most`: whole powers of ten if they suffice."""
    index = np.arange(len(major))
    if len(major) <= most:
        return index
    whole = index[np.isclose(np.log10(major) % 1, 0, atol=1e-6)]
    kept = whole if len(whole) > 1 else index
    return kept[:: int(np.ceil(len(kept) / most))]


def power_of_ten(value: float) -> str:
    """A positive number as digits times a power of ten, in Matplotlib's mathematics."""
    power = int(np.floor(np.log10(value) + 1e-9))
    digits = f"{value / 10.0**power:.3g}"
    return f"$10^{{{power}}}$" if digits == "1" else rf"${digits}\times10^{{{power}}}$"


def save_figure(figure: Figure, folder: str | Path, stem: str) -> tuple[Path, Path]:
    """Writes `stem.png` (200 dots per inch) and `stem.pdf` into the folder, each whole or not at all.

    No date, program or machine is recorded: the same figure gives the same bytes with the same versions of
    Matplotlib and its fonts. Gives both paths.
    """
    metadata = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    }
    png, pdf = (
        write_atomically(Path(folder) / f"{stem}.{kind}", _rendered(figure, kind, entries))
        for kind, entries in metadata.items()
    )
    return png, pdf


def _rendered(figure: Figure, kind: str, metadata: Mapping[str, None]) -> bytes:
    stream = io.BytesIO()
    with matplotlib.rc_context(dict(RC)):
        figure.savefig(stream, format=kind, dpi=200, metadata=dict(metadata))
    return stream.getvalue()
