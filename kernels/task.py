"""What a stage of a corruption works on. READ THIS FIRST: the convention of every corruption in this folder.

A corruption is a tuple of *stages*, plain Python functions compiled by `kernels.jit.compiled`, and a record of facts
(`kernels/corruptions/record.py`):

    def stage(task, y0, y1, x0, x1): ...

A stage computes the pixels [y0, y1) x [x0, x1) of its output, for any region. The CPU calls it with bands of whole
rows, so that the inner loop over x is vectorised. A CUDA thread calls the very same function with one pixel. So there
is one definition, and both processors do the same arithmetic in the same order. Rules that make it work on both:

- no allocation, no NumPy function, no Python object; scalars are float32(...) or int, never a double: write
  float32(0.5);
- unsigned wrapping arithmetic only through uint32(...) around every operation;
- the only scratch is `task.line`: 6 * (x1 - x0) + 6 float32 at least, the accumulators of this call's own pixels;
- a stage may read what the stages before it wrote anywhere in the image, and writes only its own region;
- every stage but the last writes float32 into task.a or task.b at [y, 3 * x + channel]. What it stores there is its own
  matter. Other shapes than the image's are fine inside the canvas: clip the region to your own domain first;
- the last stage writes uint8 to task.target[y - task.origin_y, 3 * (x - task.origin_x) + channel]. On the CPU the
  origin is 0. On the GPU the target is a lane's registers, four pixels, from which the view is downscaled, flipped,
  normalised and stored at once. The source is in registers too: the last stage reads it at its own pixels only, with
  the same origin. A type that must read others there has kernels of its own (`own_kernels`);
- pixels are truncated like np.uint8(...) does, after clipping to 0..255.

A record's `whole` is for what no region can compute, such as a Fourier transform. NumPy or torch runs it before the
stages, and the first of them finds the result in task.a.

Images are seen as rows of interleaved values: X = 3 * W. What depends on an image alone and costs little (weights, the
angle, layers) is computed on the host in float64. The record's `extra` or `fill` does that, and the result travels in
`extra_E`.
"""

from typing import Any, NamedTuple

import numpy as np

EXTRA = 256  # float32 parameters an image

# One record an image, drawn on the host, uploaded once a batch.
ROW = np.dtype(
    [
        ("mask_start", np.int64),  # element of pool_M where this image's mask has its pixel (0, 0)
        ("mask_step_y", np.int32),  # elements to the next row and column: negative where the mask is flipped
        ("mask_step_x", np.int32),
        ("corruption", np.int32),  # index into severity.ALL, -1 for none
        ("severity", np.int32),  # 1..5
        ("height", np.int32),  # valid region, top left in the canvas
        ("width", np.int32),
        ("small_height", np.int32),
        ("small_width", np.int32),
        ("flip", np.int32),  # 1: both views are mirrored
        ("columns", np.int32),  # of the small view that a block of a GPU makes (`kernels.launch.finish`)
        ("variant", np.int32),  # which mask of its group the pool drew; no stage reads it
        ("key0", np.uint32),  # the image's key, for rng.bits
        ("key1", np.uint32),
    ],
    align=True,
)


class Task(NamedTuple):
    """Everything a stage may look at."""

    source: Any  # H x X uint8, the clean image in its canvas
    target: Any  # uint8, the corrupted image (last stage only)
    a: Any  # H x X float32 scratch
    b: Any  # H x X float32 scratch
    line: Any  # float32 accumulators of this call
    row: Any  # one ROW record
    extra: Any  # EXTRA float32
    statistics: Any  # 4 uint32: sums of R, G, B over the valid region, and the largest value
    shots: Any  # noise.shot_table()
    pool: Any  # uint16 masks, one flat array
    origin_y: int
    origin_x: int
