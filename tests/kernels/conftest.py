"""What the fidelity tests of the corruptions share: pictures of awkward sizes, a task to run stages on, the bound."""

from collections.abc import Callable

import numpy as np
import pytest
from skimage import data

from kernels.checks import oracle
from kernels.corruptions.jpeg import LINE
from kernels.corruptions.noise import shot_table
from kernels.corruptions.registry import BY_NAME
from kernels.severity import INDEX
from kernels.task import EXTRA, ROW, Task


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """Natural and degenerate RGB images, all at least 32 x 32, the least that imagecorruptions takes."""
    chelsea, coffee, astronaut, camera = data.chelsea(), data.coffee(), data.astronaut(), data.camera()
    pictures = {
        "cat, odd": chelsea[30:203, 100:331],
        "coffee, wide": coffee[150:215, 20:397],
        "astronaut, tall": astronaut[0:289, 190:255],
        "least": astronaut[64:96, 200:232],
        "grey photograph": np.repeat(camera[100:199, 150:281, None], 3, axis=2),
        "black": np.zeros((33, 47, 3), np.uint8),
        "white": np.full((47, 33, 3), 255, np.uint8),
        "one colour": np.full((64, 50, 3), (200, 30, 90), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (67, 93, 3)).astype(np.uint8),
    }
    return {name: np.ascontiguousarray(picture) for name, picture in pictures.items()}


@pytest.fixture(scope="session")
def new_task() -> Callable[..., Task]:
    """A task on one image; every scratch and output value is NaN or 77 until a stage writes it."""

    def build(
        image_HW3: np.ndarray, name: str, severity: int, pool: np.ndarray | None = None, key: int = 1, **fields: int
    ) -> Task:
        height, width, _ = image_HW3.shape
        row = np.zeros(1, ROW)[0]
        row["corruption"], row["severity"], row["height"], row["width"] = INDEX[name], severity, height, width
        row["key0"], row["key1"] = np.random.default_rng(key).integers(0, 2**32, 2, dtype=np.uint32)
        for field, value in fields.items():
            row[field] = value
        extra_E = np.full(EXTRA, np.nan, np.float32)
        corruption = BY_NAME[name]
        if corruption.fill is not None:
            corruption.fill(extra_E, severity, int(row["height"]), int(row["width"]), 0)
        else:
            numbers = corruption.numbers(severity)
            extra_E[: len(numbers)] = numbers
        sums = image_HW3.reshape(-1, 3).astype(np.uint32).sum(axis=0)
        return Task(
            source=np.ascontiguousarray(image_HW3).reshape(height, 3 * width),
            target=np.full((height, 3 * width), 77, np.uint8),
            a=np.full((height, 3 * width), np.nan, np.float32),
            b=np.full((height, 3 * width), np.nan, np.float32),
            line=np.full(max(3 * width, LINE), np.nan, np.float32),
            row=row,
            extra=extra_E,
            statistics=np.array([*sums, image_HW3.max()], dtype=np.uint32),
            shots=shot_table(),
            pool=np.zeros(1, np.uint16) if pool is None else pool,
            origin_y=0,
            origin_x=0,
        )

    return build


@pytest.fixture(scope="session")
def assert_faithful() -> Callable[[str, np.ndarray, np.ndarray], None]:
    """Within the project's bound of the reference (`oracle.apart`)."""

    def check(name: str, ours: np.ndarray, expected: np.ndarray) -> None:
        wrong = oracle.apart(name, ours, expected)
        assert wrong is None, wrong

    return check
