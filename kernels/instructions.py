"""What a GPU has as one instruction that its compiler does not find by itself, for code that a CPU runs, too."""

from typing import Any

from llvmlite import ir
from numba import types, uint32
from numba.extending import intrinsic

from kernels.jit import config

if config.DISABLE_JIT:  # the CUDA simulator runs everything as plain Python

    def byte_total(word, more):
        return uint32(sum(int(word) >> shift & 0xFF for shift in (0, 8, 16, 24)) + more)

    def shifted(high, low, places):
        return uint32(uint32(high << uint32(places)) | uint32(low >> uint32(32 - places)))

    def as_byte(value):
        return uint32(min(max(value, 0), 255))

else:
    WORD, SINGLE = ir.IntType(32), ir.FloatType()

    def on_gpu(context: Any) -> bool:
        return "cuda" in type(context).__module__

    def of_words(builder: Any, text: str, words: Any) -> Any:
        return builder.asm(ir.FunctionType(WORD, (WORD,) * 3), text, "=r,r,r,r", words, False)

    @intrinsic
    def byte_total(typing_context, word, more):
        """The sum of a word's four bytes and of another word; on a CPU two sums side by side."""

        def generate(context, builder, signature, arguments):
            word, more = arguments
            ones, mask, eight = (ir.Constant(WORD, each) for each in (0x01010101, 0x00FF00FF, 8))
            if on_gpu(context):
                return of_words(builder, "dp4a.u32.u32 $0, $1, $2, $3;", (word, ones, more))
            pairs = builder.add(builder.and_(word, mask), builder.and_(builder.lshr(word, eight), mask))
            total = builder.lshr(builder.mul(pairs, ir.Constant(WORD, 0x00010001)), ir.Constant(WORD, 16))
            return builder.add(total, more)

        return types.uint32(types.uint32, types.uint32), generate

    @intrinsic
    def shifted(typing_context, high, low, places):
        """The upper word of two, after a shift of both to the left by 1 to 31 places."""

        def generate(context, builder, signature, arguments):
            high, low, places = arguments
            if on_gpu(context):
                return of_words(builder, "shf.l.wrap.b32 $0, $2, $1, $3;", arguments)
            rest = builder.sub(ir.Constant(WORD, 32), places)
            return builder.or_(builder.shl(high, places), builder.lshr(low, rest))

        return types.uint32(types.uint32, types.uint32, types.uint32), generate

    @intrinsic
    def as_byte(typing_context, value):
        """The whole number from 0 to 255 that is left of a number clipped to these and without its fraction."""

        def generate(context, builder, signature, arguments):
            (value,) = arguments
            if on_gpu(context):
                function = ir.FunctionType(WORD, (SINGLE,))
                return builder.asm(function, "cvt.rzi.u8.f32 $0, $1;", "=r,f", (value,), False)
            for compare, bound in ((">", 0.0), ("<", 255.0)):
                limit = ir.Constant(SINGLE, bound)
                inside = builder.fcmp_ordered(compare, value, limit)
                value = builder.select(inside, value, limit)
            return builder.fptosi(value, WORD)

        return types.uint32(types.float32), generate
