"""Corrupted batches for robustness: by our kernels or by the package imagecorruptions, at packed or original size.

Without `originals` the stored images are corrupted at their packed size, before the network's view is made; with them,
the source images at their own resolution before resizing, as the benchmark says.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import kernels
from eval.detecting.detect import Pass, Prepare, make_batch
from pipeline.batch import Batch
from pipeline.files.pixels import read_rgb, resize
from pipeline.packed.reader import PackedDataset
from pipeline.views import ViewConfig, ViewMaker, clean_view

Corruptor = Literal["kernels", "imagecorruptions"]


def preparation(
    how: Pass, name: str, level: int, originals: Path | None, corruptor: Corruptor, seed: int
) -> Prepare | None:
    """What is done to the pictures of a batch before the network sees them; None leaves them clean."""
    dataset, device, dtype = how.dataset, how.world.device, how.dtype
    if level == 0 and originals is None:
        return None
    if originals is None and corruptor == "kernels":
        return corrupted_view(name, level, device, dtype)

    def one_by_one(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images, ids = [], batch.ids_B.tolist()
        for b, image_id in enumerate(ids):
            h, w = batch.sizes_B2[b].tolist()
            if image_id < 0:
                images.append(np.zeros((1, 1, 3), np.uint8))
                continue
            if originals is None:
                images.append(
                    corrupt(batch.images_BHW3[b, :h, :w].cpu().numpy(), name, level, image_id, seed, corruptor)
                )
                continue
            row = dataset.index_of(image_id)
            path = originals / dataset.file_names[row]
            try:
                image = read_rgb(path)
            except ValueError as error:
                raise ValueError(f"{path} {error}") from None
            image = image if level == 0 else corrupt(image, name, level, image_id, seed, corruptor)
            images.append(resize(image, (h, w)))
        height, width = batch.images_BHW3.shape[1:3]
        made = make_batch(images, ids, (height, width), device)
        return clean_view(replace(made, sizes_B2=batch.sizes_B2), dtype)

    return one_by_one


def corrupted_view(name: str, level: int, device: torch.device, dtype: torch.dtype) -> Prepare:
    """A batch corrupted by our kernels, written straight into the network's layout and type."""
    config = ViewConfig(
        corruptions=(name,), severities=(level,), ratio_range=(1.0, 1.0), flip_probability=0.0, ratio_buckets=1
    )
    maker = ViewMaker(config, device, dtype, clean=False)

    def view(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        views = maker(batch)
        assert views.corrupted is not None
        return views.corrupted.images_B3HW, views.corrupted.sizes_B2

    return view


def corrupt(image: np.ndarray, name: str, level: int, image_id: int, seed: int, corruptor: Corruptor) -> np.ndarray:
    if corruptor == "kernels":
        return kernels.corrupt(image, severity=level, corruption_name=name, seed=(seed << 40) ^ image_id)
    from imagecorruptions import corrupt as reference

    with seeded(seed, name, level, image_id):
        return reference(np.ascontiguousarray(image), severity=level, corruption_name=name)


@contextmanager
def seeded(seed: int, name: str, level: int, image_id: int) -> Iterator[None]:
    """NumPy's global generator, which the package draws from, as a function of these; afterwards it is as before.

    glass_blur and impulse_noise draw from generators of their own, which nothing outside can seed.
    """
    state = np.random.get_state()
    np.random.seed([seed % 2**32, zlib.crc32(name.encode()), level, image_id % 2**32, (image_id >> 32) % 2**32])
    try:
        yield
    finally:
        np.random.set_state(state)


def check_originals(dataset: PackedDataset, originals: Path) -> None:
    missing = [name for name in dataset.file_names if not (originals / name).is_file()]
    if missing:
        raise ValueError(
            f"--originals {originals}: {len(missing)} of {len(dataset)} source images of {dataset.path} are not there, "
            f"the first is {missing[0]}; name the folder that was packed ({dataset.info['source']['folder']})"
        )
