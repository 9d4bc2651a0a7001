"""The arithmetic operations of Fourier transforms.

A fast Fourier transform of N complex numbers counts 5 N log2 N operations, and one from or to real
numbers half as many, whatever N is: the convention of benchFFT, https://www.fftw.org/speed, for the
radix-2 algorithm of Cooley and Tukey (1965). A scale, such as that of ``norm``, is left out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from analogtorch.graph.sizes import numbers

Arguments = Mapping[str, Any]


def operations(name: str, arguments: Arguments, output: Any) -> int | None:
    """Return the arithmetic operations of a Fourier transform; None if ``name`` is none."""
    count = _COUNTS.get(name)
    return None if count is None else count(arguments, output)


def _transform(a: Arguments, output: Tensor) -> int:
    x = a["self"]
    given = a.get("s") or ([] if a.get("n") is None else [a["n"]])
    dims = a["dim"]
    if dims is None:
        dims = range(-len(given), 0) if given else range(x.dim())
    dims = [dims] if isinstance(dims, int) else list(dims)
    # of a signal of real numbers the spectrum is half
    sizes = [max(x.shape[d], output.shape[d]) for d in dims]
    for i, n in enumerate(given):
        sizes[i] = sizes[i] if n == -1 else n
    rows = output.numel() // max(1, math.prod(output.shape[d] for d in dims))
    return rows * _fft(sizes, x.is_complex() and output.is_complex())


def _short_time(a: Arguments, output: Tensor) -> int:
    """Count the window and the transform of each frame."""
    x, window = a["self"], a["window"]
    spectrum = output.shape if output.is_complex() else output.shape[:-1]
    is_complex = x.is_complex() or (window is not None and window.is_complex())
    frame = _fft([a["n_fft"]], is_complex) + _window(window, is_complex)
    return _frames(spectrum) * frame


def _short_time_inverse(a: Arguments, output: Tensor) -> int:
    """Count transform, window and sum of each frame, and a quotient of each number of the signal.

    The sums of squares of the window that it is divided by are constant.
    """
    is_complex = output.is_complex()
    frame = _fft([a["n_fft"]], is_complex) + _window(a["window"], is_complex)
    added = a["n_fft"] * (2 if is_complex else 1)
    return _frames(a["self"].shape) * (frame + added) + numbers(output)


def _fft(sizes: Iterable[int], is_complex: bool) -> int:
    size = math.prod(sizes)
    return round((5 if is_complex else 2.5) * size * math.log2(max(1, size)))


def _window(window: Tensor | None, is_complex: bool) -> int:
    return 0 if window is None else window.numel() * (2 if is_complex else 1)


def _frames(spectrum: tuple[int, ...]) -> int:
    """Return the number of frames of spectra ``(*, frequencies, frames)``."""
    return math.prod(spectrum[:-2]) * spectrum[-1]


_COUNTS: dict[str, Callable[[Arguments, Tensor], int]] = {
    **dict.fromkeys(
        (
            f"fft_{kind}{dims}"
            for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
            for dims in ("", "2", "n")
        ),
        _transform,
    ),
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c"), _transform),
    "stft": _short_time,
    "istft": _short_time_inverse,
}
