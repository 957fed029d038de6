# mypy: disable-error-code="attr-defined"
"""What GPU kernels keep in 32-bit words: a pixel, four bytes or two halves of a row, a number's bits.

For memory by 4 and 16 bytes Numba's arrays of bytes and halves have no index.

There an array is seen as its memory from the first value on, by bytes, or by places i of 16 bytes. On a GPU a function
is an instruction or two, in the simulator NumPy. 16 bytes must begin at a multiple of 16, which is the caller's matter.
"""

from typing import Any

import numpy as np
from numba import float32, uint32, uint64

from kernels.jit import compiled, config


@compiled
def as_word(value):
    """The bits of a float32."""
    return np.float32(value).view(np.uint32)


@compiled
def as_float(word):
    """The same 32 bits, for float32 memory. A pixel's are no NaN, whose bits might change."""
    return np.uint32(word).view(np.float32)


@compiled
def word_at(line, x):
    """Pixel x of a row of interleaved bytes, red in the lowest byte, the highest 0."""
    i = uint64(uint32(3 * x))
    red, green, blue = line[i], line[i + uint64(1)], line[i + uint64(2)]
    return uint32(uint32(red) | uint32(uint32(uint32(green) << uint32(8)) | uint32(uint32(blue) << uint32(16))))


@compiled
def red_of(word):
    return float32(uint32(word & uint32(0xFF)))


@compiled
def green_of(word):
    return float32(uint32(uint32(word >> uint32(8)) & uint32(0xFF)))


@compiled
def blue_of(word):
    return float32(uint32(word >> uint32(16)))


# Sums of three channels in a word of 64 bits, 21 bits each: red from bit 0.
SUM_GREEN, SUM_BLUE, SUM_BITS = 21, 42, (1 << 21) - 1


@compiled
def sums_of(word):
    """Red, green and blue of such a word, which may be a sum of several."""
    mask = uint64(SUM_BITS)
    red, green = uint32(word & mask), uint32(uint64(word >> uint64(SUM_GREEN)) & mask)
    return float32(red), float32(green), float32(uint32(word >> uint64(SUM_BLUE)))


if config.ENABLE_CUDASIM:
    ALIGNMENT: int | None = None  # the simulator's shared arrays take no other

    def memory(array: Any, dtype: Any) -> np.ndarray:
        array = getattr(array, "_item", array)  # what the simulator wraps around an array
        return getattr(array, "_ary", array).reshape(-1).view(dtype)

    def lead(array, byte):
        return byte & 3

    def load_word(array, byte):
        values = memory(array, np.uint8)[max(byte, 0) : byte + 4].tobytes().ljust(4, b"\0")
        return np.frombuffer(values, np.uint32)[0]

    def load_words(array, i):
        return tuple(memory(array, np.uint32)[4 * i : 4 * i + 4])

    def load_floats(array, i):
        return tuple(memory(array, np.float32)[4 * i : 4 * i + 4])

    def store_words(array, i, a, b, c, d):
        memory(array, np.uint32)[4 * i : 4 * i + 4] = a, b, c, d

    def store_floats(array, i, a, b, c, d):
        memory(array, np.float32)[4 * i : 4 * i + 4] = a, b, c, d

    def funnel(low, high, shift):
        return np.uint32((int(low) | int(high) << 32) >> int(shift) & 0xFFFFFFFF)

    def pack_float16(low, high):
        return np.array([low, high], np.float32).astype(np.float16).view(np.uint32)[0]

    def pack_bfloat16(low, high):
        pattern = np.array([low, high], np.float32).view(np.uint32).astype(np.uint64)
        rounded = (pattern + 0x7FFF + (pattern >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
        return np.uint32(rounded[0] | rounded[1] << np.uint64(16))

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    ALIGNMENT = 16
    WORD, SINGLE = ir.IntType(32), ir.FloatType()

    def place(context: Any, builder: Any, signature: Any, arguments: Any, kind: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(builder.bitcast(data, ir.PointerType(kind)), [arguments[1]])

    @intrinsic
    def lead(typing_context, array, byte):
        """How far a byte lies behind a multiple of 4."""

        def generate(context, builder, signature, arguments):
            address = builder.ptrtoint(place(context, builder, signature, arguments, ir.IntType(8)), ir.IntType(64))
            return builder.and_(builder.trunc(address, WORD), ir.Constant(WORD, 3))

        return types.int32(array, types.int64), generate

    @intrinsic
    def load_word(typing_context, array, byte):
        """The word at a byte without a lead."""

        def generate(context, builder, signature, arguments):
            found = place(context, builder, signature, arguments, ir.IntType(8))
            return builder.load(builder.bitcast(found, ir.PointerType(WORD)), align=4)

        return types.uint32(array, types.int64), generate

    def loader(kind: Any, of: Any) -> Any:
        @intrinsic
        def load(typing_context, array, i):
            def generate(context, builder, signature, arguments):
                vector = builder.load(place(context, builder, signature, arguments, ir.VectorType(kind, 4)), align=16)
                values = [builder.extract_element(vector, ir.Constant(WORD, k)) for k in range(4)]
                return context.make_tuple(builder, signature.return_type, values)

            return types.UniTuple(of, 4)(array, types.int64), generate

        return load

    def storer(kind: Any, of: Any) -> Any:
        @intrinsic
        def store(typing_context, array, i, a, b, c, d):
            def generate(context, builder, signature, arguments):
                of_vector = ir.VectorType(kind, 4)
                vector = ir.Constant(of_vector, ir.Undefined)
                for k in range(4):
                    vector = builder.insert_element(vector, arguments[2 + k], ir.Constant(WORD, k))
                builder.store(vector, place(context, builder, signature, arguments, of_vector), align=16)
                return context.get_dummy_value()

            return types.none(array, types.int64, of, of, of, of), generate

        return store

    def assembler(text: str, of: Any, parameters: tuple, kinds: tuple, letters: str) -> Any:
        """An instruction of PTX without effects but its result."""

        def generate(context, builder, signature, arguments):
            function = ir.FunctionType(WORD, kinds)
            return builder.asm(function, text, letters, arguments, False)

        return of(*parameters), generate

    load_words, load_floats = loader(WORD, types.uint32), loader(SINGLE, types.float32)
    store_words, store_floats = storer(WORD, types.uint32), storer(SINGLE, types.float32)

    @intrinsic
    def funnel(typing_context, low, high, shift):
        """The 32 bits from bit `shift` on, 0 to 31, of two words."""
        return assembler(
            "shf.r.wrap.b32 $0, $1, $2, $3;", types.uint32, (types.uint32,) * 3, (WORD,) * 3, "=r,r,r,r"
        )  # fmt: skip

    @intrinsic
    def pack_float16(typing_context, low, high):
        return assembler(
            "cvt.rn.f16x2.f32 $0, $2, $1;", types.uint32, (types.float32,) * 2, (SINGLE,) * 2, "=r,f,f"
        )  # fmt: skip

    @intrinsic
    def pack_bfloat16(typing_context, low, high):
        return assembler(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", types.uint32, (types.float32,) * 2, (SINGLE,) * 2, "=r,f,f"
        )  # fmt: skip


FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2  # kinds of output


@compiled
def pack(low, high, kind):
    """Two numbers rounded to float16 or bfloat16, ties to even, as one word."""
    return pack_float16(low, high) if kind == FLOAT16 else pack_bfloat16(low, high)


@compiled
def byte_of(word, i):
    return uint32(uint32(word >> uint32(8 * i)) & uint32(255))
