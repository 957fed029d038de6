"""The corruptions of `imagecorruptions`, one definition for CPU and GPU. The convention is in `kernels/task.py`.

from kernels import corrupt, get_corruption_names
corrupted = corrupt(image, severity=3, corruption_name="glass_blur", seed=0)
"""

from kernels.dropin import corrupt
from kernels.severity import get_corruption_names

__all__ = ["corrupt", "get_corruption_names"]
