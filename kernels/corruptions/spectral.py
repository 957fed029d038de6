"""high_pass_filter, phase_scaling: changed in the Fourier domain, each channel alone (DivAlign, arXiv 2405.14497).

    high_pass_filter   |x - what x has of the frequencies below int(c H)|, H the image's height
    phase_scaling      every phase times a factor, every amplitude kept; the real part

A transform needs the whole image, in any size, so it is no stage. NumPy's or torch's makes it before the stages. A
frequency is counted in waves an image: (u, v) is below r where sqrt(u^2 + v^2) < r. From r = 1 on the mean is removed.

Differs from the original where it must. Its scaled phases leave 0..255 (by up to 1100 levels at severity 5) and are
cast without clipping, so they wrap around. Here they are clipped.
"""

from typing import Any

from numba import float32, uint8, uint64

from kernels.corruptions.color import TINY
from kernels.corruptions.record import Corruption
from kernels.jit import compiled


def high_pass(library: Any, pixels_3HW: Any, share: float) -> Any:
    height, width = pixels_3HW.shape[1:]
    radius = int(share * height)
    if radius == 0:
        return pixels_3HW
    # Only the low frequencies along rows are transformed along columns; the inverse takes the others as 0.
    low_3HV = library.fft.fft(library.fft.rfft(pixels_3HW)[..., :radius], None, 1)
    # Rounded, because 3 / height * height need not be 3.
    waves_H = library.round(height * library.fft.fftfreq(height, device=pixels_3HW.device))
    waves_V = library.round(width * library.fft.rfftfreq(width, device=pixels_3HW.device))[:radius]
    below_HV = waves_H[:, None] ** 2 + waves_V**2 < radius**2
    low_3HW = library.fft.irfft(library.fft.ifft(low_3HV * below_HV, None, 1), width)
    return library.abs(pixels_3HW - low_3HW)


def scale_phase(library: Any, pixels_3HW: Any, factor: float) -> Any:
    spectrum_3HV = library.fft.rfft2(pixels_3HW)
    phase_3HV = factor * library.angle(spectrum_3HV)
    # Not exp(1j * phase): NumPy's takes ten times as long.
    turned_3HV = library.abs(spectrum_3HV) * (library.cos(phase_3HV) + 1j * library.sin(phase_3HV))
    return library.fft.irfft2(turned_3HV, s=pixels_3HW.shape[1:])


@compiled
def store(task, y0, y1, x0, x1):
    """target: a, clipped and truncated."""
    a, target, tiny, first = task.a, task.target, float32(TINY), 3 * task.origin_x
    for y in range(y0, y1):
        out = y - task.origin_y
        for i in range(3 * x0, 3 * x1):
            value = min(max(a[uint64(y), uint64(i)] + tiny, float32(0)), float32(255))
            target[uint64(out), uint64(i - first)] = uint8(value)


HIGH_PASS = Corruption(
    name="high_pass_filter",
    severities=(0.01, 0.02, 0.03, 0.04, 0.05),  # share of the height: from which frequency on an image keeps its own
    stages=(store,),
    prior="none",
    whole=high_pass,
)
PHASE = Corruption(
    name="phase_scaling",
    severities=(0.9, 0.8, 0.7, 0.6, 0.5),  # factor of the phases
    stages=(store,),
    prior="none",
    whole=scale_phase,
)
