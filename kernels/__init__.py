"""The corruptions of `imagecorruptions`, one definition for CPU and GPU. The convention is in `kernels/task.py`.

A few stages have a twin for the CPU alone, which works on whole rows or on the whole image and makes the same pixels.
They are `glass.shuffle_in_order` of `shuffle`, `elastic.wide_along` of `along`, `jpeg.wide_blocks` of `blocks`,
`jpeg.wide_colours` of `colours`. Three parts around the corruptions have one too. The channel sums:
`color.gather_statistics`, on the GPU `cuda_kernels.statistics`. The small view: `resize.shrink_rows` and
`finish.make_finish`. The clean view: `resize.clean_rows` and `clean.make_clean`. A type with `own_kernels` is written
twice: its stages for a CPU, and its kernels for a GPU in the file ending in `_cuda`.

from kernels import corrupt, get_corruption_names
corrupted = corrupt(image, severity=3, corruption_name="glass_blur", seed=0)
"""

from kernels.dropin import corrupt
from kernels.severity import get_corruption_names

__all__ = ["corrupt", "get_corruption_names"]
