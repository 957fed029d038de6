"""The CUDA side: PTX for three generations without a GPU, the simulator's pixels, and a real GPU where there is one."""

import contextlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numba import types
from numba.np.numpy_support import as_dtype
from skimage import data

import kernels
from kernels import severity
from kernels.checks import estimate, host, pixels, ptx, ptx_run
from kernels.checks import timing as pictures
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import boxes, cpu, cuda_kernels, finish, gpu, resize, signatures
from kernels.launch import own as own_kernels
from kernels.launch import table as parameters
from kernels.launch.pool import Pool

HEIGHT, WIDTH, CANVAS_WIDTH = 14, 18, 24
NAMES = (*severity.ALL, None)
has_gpu = torch.cuda.is_available()


def mixed_batch() -> tuple[np.ndarray, parameters.Table, Pool]:
    """Every corruption and none, in sizes of their own, one padded row."""
    num = len(NAMES) + 1
    images, table = np.zeros((num, HEIGHT, 3 * CANVAS_WIDTH), np.uint8), parameters.Table(num)
    random = np.random.default_rng(0)
    for b, name in enumerate(NAMES):
        height, width = int(random.integers(9, HEIGHT + 1)), int(random.integers(9, WIDTH + 1))
        if name == "gaussian_blur":
            height = width = 1
        picture = data.astronaut()[100 + b : 100 + b + height, 200 : 200 + width]
        images[b, :height, : 3 * width] = picture.reshape(height, -1)
        row = table.rows_B[b]
        row["corruption"] = severity.NONE if name is None else severity.INDEX[name]
        row["severity"], row["flip"] = b % 5 + 1, b % 2
        row["height"], row["width"] = height, width
        row["small_height"], row["small_width"] = max(int(height * 0.7), 1), max(int(width * 0.7), 1)
        row["key0"], row["key1"] = 77 * b, 5
    table.rows_B[-1]["corruption"] = severity.NONE
    parameters.fill_extra(table)
    pool = Pool((HEIGHT, WIDTH), NEED_MASK, size=2, margin=16)
    pool.place(table.rows_B)
    return images, table, pool


@pytest.mark.long
@pytest.mark.slow
def test_simulator_makes_the_same_pixels(tmp_path):
    images, table, pool = mixed_batch()
    num = len(images)
    given_boxes = np.zeros((num, 2, 4), np.float32)
    given_boxes[:, 0] = (1, 2, 6, 7)
    small = np.full((num, 32, 96), np.nan, np.float32)
    np.savez(
        tmp_path / "in.npz",
        images=images,
        buffer=table.buffer,
        pool=pool.values_M,
        boxes=given_boxes,
        small_shape=small.shape,
    )
    script = Path(__file__).with_name("simulated.py")
    root = str(Path(__file__).parents[2])
    environment = dict(os.environ, NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1", PYTHONPATH=root)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, env=environment, check=True, timeout=600)
    made = np.load(tmp_path / "out.npz")

    clean = np.full(images.shape, np.nan, np.float32)
    workspace = cpu.Workspace(HEIGHT, CANVAS_WIDTH)
    for b in range(num):
        row = table.rows_B[b]
        height, width = int(row["height"]), int(row["width"])
        corrupted = images[b]
        if row["corruption"] != severity.NONE:
            corrupted = workspace.corrupted
            cpu.corrupt_image(images[b], corrupted, row, table.extra_BE[b], pool.values_M, workspace)
            error = np.abs(corrupted[:height, : 3 * width].astype(int) - made["corrupted"][b, :height, : 3 * width])
            assert error.max() <= 1, severity.ALL[row["corruption"]]
            assert (error > 0).mean() < 0.01, severity.ALL[row["corruption"]]
            # What follows is compared on the same pixels.
            corrupted[:height, : 3 * width] = made["corrupted"][b, :height, : 3 * width]
        resize.shrink_rows(corrupted, small[b], row, workspace.line, workspace.taps, 0, 32)
        resize.clean_rows(images[b], clean[b], row, 0, HEIGHT)
    np.testing.assert_allclose(made["small"], small, atol=1e-5)
    np.testing.assert_allclose(made["clean"], clean, atol=1e-6)
    np.testing.assert_array_equal(made["float16"], made["clean"].astype(np.float16))
    bfloat16 = torch.from_numpy(made["clean"]).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(made["bfloat16"], bfloat16)
    both = np.empty((2, *given_boxes.shape), np.float32)
    boxes.place_boxes(given_boxes, both[0], both[1], table.rows_B)
    np.testing.assert_array_equal(made["boxes"], both)
    for b in (severity.INDEX["contrast"], severity.INDEX["fog"]):
        row = table.rows_B[b]
        picture = images[b, : row["height"], : 3 * row["width"]].reshape(-1, 3)
        np.testing.assert_array_equal(made["statistics"][b], [*picture.sum(0), picture.max()])


@pytest.mark.long
def test_simulated_views_have_the_cpus_bits():
    script = Path(__file__).with_name("simulated_views.py")
    environment = dict(os.environ, NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-W", "ignore", str(script)], env=environment, check=True, timeout=600)


def test_ptx_of_a_quick_kernel():
    check_ptx("boxes", 90)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("name", ptx.all_kernels())
def test_ptx(name, architecture):
    check_ptx(name, architecture)


def check_ptx(name: str, architecture: int) -> None:
    """FAIRWEATHER_PTX: what `kernels.checks.ptx --json` has just written, so that CI compiles each kernel once."""
    if written := os.environ.get("FAIRWEATHER_PTX"):
        record = json.loads(Path(written).read_text())[f"{name} sm_{architecture}"]
    else:
        record = ptx.compile_kernel(ptx.all_kernels()[name], architecture)
    assert record["target"] in (f"sm_{architecture}", f"sm_{architecture}a")
    assert record["double_precision"] == 0
    assert record["long_divisions"] == 0
    if ptx.find_ptxas() is None:
        pytest.skip("PTX is compiled and holds no double precision; there is no ptxas to count registers")
    # A block of 256 threads must be launchable, and nothing may live in spilled registers.
    assert record["registers"] <= 255
    assert record["spill_bytes"] == 0
    assert record["shared_bytes"] <= 48 << 10  # more must be asked for when a kernel is launched
    assert record["double_instructions"] == 0
    assert record["calls"] == 0
    assert record["diverged_calls"] == 0 or (name.startswith("roi_spread") and architecture == 80)
    own = {facts.name for kernels in own_kernels.KERNELS.values() for facts in kernels}
    if name in own or name.startswith(("roi_", "finish_", "clean_")):
        assert record["local_loads"] == record["local_stores"] == 0
    if name.startswith(("roi_", "finish_", "clean_")):
        assert record["widest_global_bytes"] == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kernels", "boxes", "steps_1"], "no kernel is called steps_1; there are statistics, "),
        (["--architectures", "90", "91"], "--architectures 91 is not known"),
    ],
)
def test_an_unknown_name_is_one_sentence(monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["ptx", *words])
    with pytest.raises(SystemExit, match=said):
        ptx.main()


@pytest.mark.skipif(has_gpu, reason="there is a CUDA device")
def test_pixels_without_a_gpu_are_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "pixels.npz").touch()
    monkeypatch.setattr(sys, "argv", ["pixels", str(tmp_path / "pixels.npz")])
    with pytest.raises(SystemExit, match="no CUDA device here"):
        pixels.main()


def test_a_kernels_ptx_run_in_python_makes_the_cpus_pixels():
    """Every thread of the clean view, with the numbers of its launch: `as_numbers` makes what a kernel takes."""
    table = host.CountedTable(2)
    for row, (height, width, flip) in zip(table.host.rows_B, ((9, 13, 1), (14, 18, 0)), strict=True):
        row["height"] = row["small_height"] = height
        row["width"] = row["small_width"] = width
        row["flip"], row["corruption"] = flip, severity.NONE
    images = torch.randint(0, 256, (2, 14, 24, 3), dtype=torch.uint8)
    keep = host.Counted()
    clean, *_ = gpu.make_views(keep, images, torch.zeros(2, 1, 4), table, None, (32, 32), torch.bfloat16, True)
    assert clean is not None
    clean.fill_(7)
    arrays = (images, table.tensor, clean)
    areas = [(each.data_ptr(), each.data_ptr() + each.numel() * each.element_size()) for each in arrays]
    (launched,) = (each for each in keep.launched if each.name == "clean_bfloat16")
    code = ptx_run.Code(ptx.all_kernels()[launched.name].compile(90)[0])
    assert (launched.grid, launched.block[:2]) == ((1, 4, 2), (32, 4))
    counts = [
        ptx_run.Thread(code, launched.numbers, (0, band, b), (x, y), areas).run()
        for b in range(2) for band in range(4) for y in range(4) for x in range(32)
    ]  # fmt: skip
    expected = np.zeros((14, 72), np.float32)
    for b in range(2):
        resize.clean_rows(images[b].reshape(14, 72).numpy(), expected, table.host.rows_B[b], 0, 14)
        torch.testing.assert_close(
            clean[b].reshape(14, 72), torch.from_numpy(expected).to(torch.bfloat16), rtol=0, atol=0
        )
    # Seven words for eight pixels of both images, two bytes a value of both canvases.
    assert sum(each.loaded[0] for each in counts) == 28 * (9 * 2 + 14 * 3)
    assert sum(each.stored for each in counts) == 2 * clean.numel()


@pytest.mark.long
@pytest.mark.slow
def test_an_estimate_is_above_the_copy_and_knows_the_clean_views_bytes():
    if ptx.find_ptxas() is None:
        pytest.skip("there is no ptxas to count machine instructions")
    record = estimate.estimate("brightness", estimate.Kernels(), pictures.picture(estimate.HEIGHT, estimate.WIDTH))
    assert set(record["launches"]) == {"clean_bfloat16", "finish_bfloat16", "boxes"}
    assert record["times_copy_bound"] > 1
    values = 3 * estimate.CANVAS[0] * estimate.CANVAS[1]  # a byte read and two written of each, in whole blocks
    expected = estimate.BATCH * (1 + 2) * values / estimate.COPY
    assert record["launches"]["clean_bfloat16"]["bytes"] == pytest.approx(expected, rel=0.05)


def test_machine_code_is_counted():
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   STG.E.U8 desc[UR4][R2.64], R5 ;
        /*0030*/                   LDL R7, [R1] ;
        /*0040*/              @P1  STL.64 [R1+0x8], R8 ;
        /*0050*/                   CALL.REL.NOINC `($f$__internal_0_$__cuda_sm20_div_s64) ;
        /*0054*/                   CALL.ABS.NOINC R2 ;
        /*0058*/              @!P1 CALL.REL.NOINC `(.L_x_6) ;
        /*005c*/                   CALL.REL.NOINC `($__internal_1_$__cuda_sm70_shflsync_bfly) ;
        /*0060*/                   DFMA R2, R4, R6, R8 ;
        /*0070*/                   MUFU.RCP R9, R9 ;
    """
    assert ptx.count_instructions(listing) == {
        "instructions": 11, "local_loads": 1, "local_stores": 1, "calls": 2, "diverged_calls": 1,
        "double_instructions": 1, "widest_global_bytes": 16,
    }  # fmt: skip


def test_occupancy_is_that_of_the_scarcest():
    """65,536 registers, 64 warps, 32 blocks and 228 KiB a multiprocessor; registers are given out 256 a warp."""

    def share(threads, registers, shared=0, architecture=90):
        record = {"threads": threads, "registers": registers, "shared_bytes": shared}
        return ptx.occupancy(record, architecture)

    assert share(256, 32) == 1.0
    assert share(256, 116) == 0.25  # 120 x 32 a warp: 17 warps, two blocks of eight
    assert share(32, 16) == 0.5  # 32 blocks of one warp
    assert share(256, 32, 112 << 10) == 0.25
    assert share(256, 32, 112 << 10, 80) == 0.12


@pytest.mark.parametrize(
    ("name", "place", "shape"),
    [
        ("clean_bfloat16", 1, (3,)), ("clean_bfloat16", 0, (1, 2, 3)), ("clean_bfloat16", 2, (2, 5, 9)),
        ("clean_float32", 2, (2, 5, 9)), ("step_1", 1, (2, 1, 2, 3)), ("boxes", 0, (4, 1, 4)),
        ("corrupted", 3, (3, 4)), ("corrupted", 5, (5,)), ("corrupted", 6, (5,)),
    ],
)  # fmt: skip
def test_an_array_is_the_numbers_that_numba_makes_of_it(monkeypatch, name, place, shape):
    from numba.cuda import api  # here: private names that change would take all tests of this file along
    from numba.cuda.cudadrv import devices
    from numba.cuda.dispatcher import _Kernel

    monkeypatch.setattr(devices._runtime, "ensure_context", contextlib.nullcontext)  # there need not be a device
    monkeypatch.setattr(api, "current_context", lambda: None)
    kind = ptx.numba_kernels()[name].signature[place]
    dtype = as_dtype(kind.dtype)
    memory = torch.zeros(1 << 12, dtype=torch.uint8)
    interface = {"data": (memory.data_ptr(), False), "shape": shape, "typestr": dtype, "version": 2}
    array = api.as_cuda_array(SimpleNamespace(__cuda_array_interface__=interface), sync=False)
    numbers: list[int] = []
    _Kernel._prepare_args(SimpleNamespace(extensions=[]), kind, array, 0, [], numbers)
    assert gpu.as_numbers(memory, dtype.itemsize, shape) == tuple(numbers)


def test_scratch_is_as_large_as_the_largest_batch():
    keep = host.Counted()
    for side in (30, 90, 60):
        for width in range(1, 100):
            assert keep.planes(2, side, width, True)[5:9] == (2, 2, side, 3 * width)
    assert keep.scratch.numel() == 2 * 2 * 90 * 3 * 99


def launched_by(names, dtype=torch.float32) -> list[host.Launched]:
    """What the views of images with these corruptions launch. None: an image without."""
    keep, table = host.Counted(), host.CountedTable(len(names))
    for row, name in zip(table.host.rows_B, names, strict=True):
        row["corruption"] = severity.NONE if name is None else severity.INDEX[name]
        row["height"] = row["width"] = row["small_height"] = row["small_width"] = 32
    images = torch.zeros(len(names), 32, 64, 3, dtype=torch.uint8)
    boxes_BG4 = torch.zeros(len(names), 5, 4)
    gpu.make_views(keep, images, boxes_BG4, table, None, (32, 64), dtype, True)
    return keep.launched


def test_launches_do_not_grow_with_the_batch():
    """Each kernel once at most, for all corruptions together too; 21 images of two types launch what 2 do."""

    def launches(names) -> list[str]:
        return [each.name for each in launched_by(names)]

    every = launches(severity.ALL)
    assert every == launches([*severity.ALL, "fog", "glass_blur"])
    assert len(every) == len(set(every))
    assert {facts.name for kernels in own_kernels.KERNELS.values() for facts in kernels} < set(every)
    for kinds in (("contrast", "jpeg_compression"), ("glass_blur", "fog")):
        assert launches(kinds) == launches([*kinds * 10, kinds[0]])
        assert len(launches(kinds)) <= 9


@pytest.mark.parametrize("dtype", gpu.TYPES)
def test_what_is_launched_was_compiled_before_for_such_arrays(dtype):
    """The kernels that `needed` names are those that a batch of these corruptions launches, with arrays of the kinds
    and numbers that they were compiled for: nothing verifies that at a launch."""
    every = signatures.signatures()
    for names in (("fog",), ("glass_blur", "brightness"), ("jpeg_compression",), ("defocus_blur",), severity.TRAINING):
        launched = launched_by((*names, None), dtype)
        kinds = tuple(severity.INDEX[name] for name in names)
        assert {each.name for each in launched} == set(signatures.needed(kinds, gpu.TYPES[dtype], True))
        for name, numbers, _, _ in launched:
            rest = list(numbers)
            for kind in every[name][1]:
                if isinstance(kind, types.Array):
                    array, rest = rest[: 5 + 2 * kind.ndim], rest[5 + 2 * kind.ndim :]
                    assert array[3] == array[-1] == as_dtype(kind.dtype).itemsize
                    assert array[2] == np.prod(array[5 : 5 + kind.ndim])
                else:
                    assert kind == types.int64
                    rest = rest[1:]
            assert rest == []


def test_the_last_stages_take_the_block_of_arguments_in_its_order():
    for kernel in (cuda_kernels.corrupted, *finish.FINISH.values()):
        parameters_of = tuple(inspect.signature(kernel.py_func).parameters)
        assert parameters_of[: len(cuda_kernels.Arguments._fields)] == cuda_kernels.Arguments._fields


@pytest.mark.parametrize("num", [1, 3])
def test_columns_share_one_buffer(num):
    """Each begins at a multiple of the alignment, none overlaps, and what is written lies in the buffer."""
    table = parameters.Table(num)
    ends = [end for _, end in table.places]
    for (begin, end), before in zip(table.places, [0, *ends], strict=False):
        assert begin % parameters.ALIGNMENT == 0
        assert before <= begin < end <= len(table.buffer)
    table.ratio_B[-1] = 0.5
    begin, end = table.places.ratio_B
    assert table.buffer[begin:end].view(np.float32)[-1] == 0.5
    assert table.columns.ratio_B is table.ratio_B


def test_a_view_shows_the_columns_of_the_table():
    table = host.CountedTable(3)
    random = np.random.default_rng(0)
    for name in gpu.Shown._fields:
        column = getattr(table.host, name)
        column[:] = random.integers(1, 1 << 20, column.shape)
    shown = table.shown()
    for name, made in zip(gpu.Shown._fields, shown, strict=True):
        np.testing.assert_array_equal(made.numpy(), getattr(table.host, name))
        assert made.dtype == getattr(gpu.SHOWN, name)
    table.host.buffer[:] = 0
    assert shown.keys_B.all()  # memory of its own


CACHE_KEYS = """
from types import SimpleNamespace
from kernels.checks import ptx
library = SimpleNamespace(magic_tuple=lambda: ("sm_90",))
keys = [kernel.kernel._cache._index_key(("types",), library) for kernel in ptx.numba_kernels().values()]
assert len(set(keys)) > 10
print(keys)
"""


@pytest.mark.long
def test_kernels_are_found_again_in_the_cache_on_disk(capsys):
    """The cache knows a kernel by its code and what it closes over, which must look the same in every process."""
    other = subprocess.run([sys.executable, "-c", CACHE_KEYS], capture_output=True, text=True, check=True).stdout
    exec(CACHE_KEYS, {})
    assert capsys.readouterr().out == other


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu, reason="no CUDA device")
@pytest.mark.parametrize("name", severity.ALL)
def test_gpu_makes_the_same_pixels(name):
    image = data.astronaut()[:401, :333]
    for level in severity.SEVERITIES:
        expected = kernels.corrupt(image, level, name, seed=level)
        got = kernels.corrupt(torch.from_numpy(image.copy()).cuda(), level, name, seed=level).cpu().numpy()
        error = np.abs(expected.astype(int) - got.astype(int))
        assert error.max() <= 1
        assert (error > 0).mean() < 0.01
