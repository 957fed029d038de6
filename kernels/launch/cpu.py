"""The CPU driver: images over threads, or the rows of one image; the stages of an image one after the other.

The compiled stages release the GIL, so plain Python threads run them side by side. OpenMP is not used: it would not
survive a fork. There is no second thread pool beside torch's.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from kernels.corruptions import color, noise
from kernels.corruptions.jpeg import BLOCK, LINE
from kernels.corruptions.registry import CORRUPTIONS
from kernels.launch import resize
from kernels.launch.table import Table
from kernels.severity import NONE
from kernels.task import Task


@lru_cache(maxsize=1)
def shots() -> np.ndarray:
    return noise.shot_table()


NO_POOL = np.zeros(1, dtype=np.uint16)


class Workspace:
    """The scratch of one thread, for one image or canvas at a time. It grows to the largest it has seen."""

    def __init__(self, height: int, width: int):
        self.values = self.width = 0
        self.statistics = np.zeros(4, dtype=np.uint32)
        self.fit(height, width)

    def fit(self, height: int, width: int) -> None:
        values = 3 * height * width
        if values > self.values:
            self.values = values
            self.planes = np.empty((2, values), dtype=np.float32)
            self.pixels = np.empty(values, dtype=np.uint8)
        if width > self.width:
            self.width = width
            self.line = np.empty(max(6 * width + 6, LINE), dtype=np.float32)
            self.taps = np.empty(8 * width + 64, dtype=np.float32)
        self.a, self.b = (plane[:values].reshape(height, 3 * width) for plane in self.planes)
        self.corrupted = self.pixels[:values].reshape(height, 3 * width)


class Workspaces:
    """Workspaces waiting for their next use: no more than threads ever worked at once, none larger than was needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[Workspace] = []

    @contextmanager
    def borrow(self, height: int, width: int) -> Iterator[Workspace]:
        with self.lock:
            workspace = self.idle.pop() if self.idle else None
        if workspace is None:
            workspace = Workspace(height, width)
        else:
            workspace.fit(height, width)
        try:
            yield workspace
        finally:
            with self.lock:
                self.idle.append(workspace)


def corrupt_image(
    source_HX: np.ndarray,
    target_HX: np.ndarray,
    row: np.void,
    extra_E: np.ndarray,
    pool_M: np.ndarray,
    workspace: Workspace,
    threads: int = 1,
    executor: ThreadPoolExecutor | None = None,
) -> None:
    """target = corrupted source, inside the row's valid region; the rest of target is left alone."""
    corruption, height, width = CORRUPTIONS[row["corruption"]], int(row["height"]), int(row["width"])
    if corruption.statistics:
        color.gather_statistics(source_HX, workspace.statistics, height, width)
    if corruption.whole is not None:
        image_HW3 = source_HX[:height, : 3 * width].reshape(height, width, 3)
        whole_HW3 = corruption.make_whole(np, image_HW3, int(row["severity"]))
        workspace.a[:height, : 3 * width] = whole_HW3.reshape(height, 3 * width)
    task = Task(
        source=source_HX,
        target=target_HX,
        a=workspace.a,
        b=workspace.b,
        line=workspace.line,
        row=row,
        extra=extra_E,
        statistics=workspace.statistics,
        shots=shots(),
        pool=pool_M,
        origin_y=0,
        origin_x=0,
    )
    if executor is None:
        for stage in corruption.on_cpu():
            stage(task, 0, height, 0, width)
        return
    # Each thread takes one run of rows, of whole JPEG blocks; the caller's thread takes the first.
    tops = [min(-(-height * thread // (threads * BLOCK)) * BLOCK, height) for thread in range(threads + 1)]
    tasks = [task, *(task._replace(line=np.empty_like(task.line)) for _ in range(threads - 1))]
    for stage in corruption.on_cpu():
        if stage in corruption.alone:
            stage(task, 0, height, 0, width)
            continue
        shares = list(zip(tasks, tops, tops[1:], strict=False))[1:]
        others = [executor.submit(stage, part, top, end, 0, width) for part, top, end in shares]
        stage(task, 0, tops[1], 0, width)
        for other in others:
            other.result()  # raises what the thread raised


def make_views(
    images_BHX: np.ndarray,
    table: Table,
    pool_M: np.ndarray,
    clean_BHX: np.ndarray | None,
    small_Bhx: np.ndarray,
    workspaces: Workspaces,
    executor: ThreadPoolExecutor | None,
) -> None:
    """Both views of a batch, float32; every element of the outputs is written."""
    height, width = images_BHX.shape[1], images_BHX.shape[2] // 3

    def one(b: int) -> None:
        row = table.rows_B[b]
        with workspaces.borrow(height, width) as workspace:
            if clean_BHX is not None:
                resize.clean_rows(images_BHX[b], clean_BHX[b], row, 0, height)
            corrupted = images_BHX[b]
            if row["corruption"] != NONE:
                corrupted = workspace.corrupted
                corrupt_image(images_BHX[b], corrupted, row, table.extra_BE[b], pool_M, workspace)
            rows = small_Bhx.shape[1]
            resize.shrink_rows(corrupted, small_Bhx[b], row, workspace.line, workspace.taps, 0, rows)

    run(one, range(table.num), executor)


def run(function: Callable[[int], None], items: Sequence[int], executor: ThreadPoolExecutor | None) -> None:
    if executor is None:
        for item in items:
            function(item)
    else:
        list(executor.map(function, items))  # raises what a thread raised
