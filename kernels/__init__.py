"""The corruptions of `imagecorruptions`, one definition for CPU and GPU. The convention is in `kernels/task.py`."""
