"""Run one thread of a kernel's PTX in Python, and count what it does. The instructions are those that our kernels hold.

A thread runs alone: it passes barriers, and shared memory holds what it wrote itself, zero elsewhere. That is enough to
count, because no kernel branches on what other threads computed.
"""

import ctypes
import math
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FREE = ("ld.param", "mov", "cvta")  # become no instruction, or a constant operand of another
SLOW = {"mul.lo.64": 4, "mul.hi.64": 8, "div.approx": 4, "sqrt.approx": 3, "div.u32": 20, "rem.u32": 20}


def slots(name: str) -> int:
    """How many machine instructions stand for one of PTX, about: a GPU's registers have 32 bits."""
    if name.startswith(FREE):
        return 0
    wide = name.endswith("64") and not name.startswith(("ld", "st", "cvt", "mul.wide"))
    generic = re.sub(r"\.[sub]64$", ".64", name)
    for start, number in SLOW.items():
        if generic.startswith(start):
            return number
    return 2 if wide else 1


@dataclass
class Counts:
    slots: int = 0
    names: Counter = field(default_factory=Counter)
    loaded: Counter = field(default_factory=Counter)  # bytes by the number of the array
    stored: int = 0


def single(value: float) -> float:
    return ctypes.c_float(value).value


def bits_of(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def from_bits(pattern: int) -> float:
    return struct.unpack("<f", struct.pack("<I", pattern & 0xFFFFFFFF))[0]


def half(kind: str, value: float) -> int:
    """The bits of a number rounded to float16 or bfloat16, ties to even."""
    if kind == "f16x2":
        return struct.unpack("<H", struct.pack("<e", value))[0]
    pattern = bits_of(value)
    return (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16


class Code:
    """A kernel's instructions, parsed once."""

    def __init__(self, ptx: str):
        body = ptx[ptx.index(".entry") :]
        body = re.sub(r"//[^\n]*", "", body[body.index("{") + 1 :])
        self.steps: list[tuple] = []
        self.labels: dict[str, int] = {}
        self.symbols: dict[str, int] = {}
        at = 0
        for name, size in re.findall(r"\.shared \.align \d+ \.b8 (\w+)\[(\d+)\]", ptx):
            self.symbols[name] = at
            at += -(-int(size) // 16) * 16
        self.shared_bytes = at
        for part in re.split(r";|(?<=:)\s*\n", body):
            line = part.strip()
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.steps)
            elif line.startswith(".local"):
                self.symbols[line.split()[-1].split("[")[0]] = 0
            elif line and not line.startswith((".", "}", "{")):
                found = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.]+)\s*(.*)", line, re.DOTALL)
                assert found is not None, line
                operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", found[4])
                self.steps.append((found[2], found[1] == "!", found[3], operands))


class Thread:
    def __init__(self, code: Code, numbers: tuple[int, ...], block: tuple, place: tuple, areas: list[tuple[int, int]]):
        self.code, self.numbers, self.areas = code, numbers, areas
        self.registers: dict[str, Any] = {
            **{f"%ctaid.{axis}": value for axis, value in zip("xyz", block, strict=False)},
            **{f"%tid.{axis}": value for axis, value in zip("xyz", place, strict=False)},
        }
        self.shared, self.local = bytearray(code.shared_bytes + 64), bytearray(1 << 16)
        self.counts = Counts()

    def read(self, operand: str, kind: str) -> Any:
        """kind: s32, u64, b16, f32, pred."""
        registers = self.registers
        if operand in registers:
            value = registers[operand]
        elif operand.startswith("0f"):
            value = from_bits(int(operand[2:], 16))
        elif operand in self.code.symbols:
            value = self.code.symbols[operand]
        else:
            value = int(operand, 0) if re.match(r"-?\d", operand) else 0  # else a register that was never written
        if kind == "f32":
            return value if isinstance(value, float) else from_bits(value)
        if isinstance(value, float):
            value = bits_of(value)
        if kind == "pred":
            return int(bool(value))
        bits = int(kind[1:])
        value &= (1 << bits) - 1
        return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value

    def address(self, operand: str) -> int:
        base, _, offset = operand[1:-1].partition("+")
        return self.read(base.strip(), "u64") + (int(offset, 0) if offset else 0)

    def run(self) -> Counts:
        at, steps, counts = 0, self.code.steps, self.counts
        while at < len(steps):
            predicate, negated, name, operands = steps[at]
            at += 1
            counts.names[name] += 1
            counts.slots += slots(name)
            if predicate and bool(self.read(predicate, "pred")) == negated:
                continue
            if name.startswith("bra"):
                at = self.code.labels[operands[0]]
            elif name == "ret":
                break
            elif not name.startswith("bar"):
                self.execute(name, operands)
        return counts

    def execute(self, name: str, operands: list[str]) -> None:
        parts = name.split(".")
        what, kind = parts[0], parts[-1]
        if what == "ld" and parts[1] == "param":
            self.registers[operands[0]] = self.numbers[int(operands[1][1:-1].rsplit("_", 1)[1])]
        elif what in ("ld", "st"):
            self.move(what, parts[1], kind, operands)
        elif what == "atom":
            place, memory = self.address(operands[1]), self.memory("global")
            before = memory(place, 4)
            added = self.read(operands[2], "u32")
            after = before + added if parts[2] == "add" else max(before, added)
            memory(place, 4, after & 0xFFFFFFFF)
            self.counts.stored += 4
        elif what == "setp":
            a, b = (self.read(operand, kind) for operand in operands[1:])
            self.registers[operands[0]] = int(COMPARE[parts[1]](a, b))
        elif what == "selp":
            chosen = operands[1] if self.read(operands[3], "pred") else operands[2]
            kind = kind if kind == "f32" or not chosen.startswith(("%f", "0f")) else "f32"
            self.registers[operands[0]] = self.read(chosen, kind)
        elif what == "cvt" and parts[2][-2:] == "x2":
            high, low = (self.read(operand, "f32") for operand in operands[1:])
            self.registers[operands[0]] = half(parts[2], low) | half(parts[2], high) << 16
        elif what == "cvt":
            self.registers[operands[0]] = self.convert(parts, operands[1])
        elif what in ("mov", "cvta"):
            self.registers[operands[0]] = self.read(operands[1], "f32" if operands[0].startswith("%f") else kind)
        else:
            values = [self.read(operand, kind) for operand in operands[1:]]
            if (what == "mul" and parts[1] == "wide") or what in ("dp2a", "dp4a"):
                self.registers[operands[0]] = WIDE[what](*values)
            elif kind == "f32":
                self.registers[operands[0]] = single(FLOATS[what](*values))
            elif kind == "pred":
                self.registers[operands[0]] = INTEGERS[what](1, *values) & 1
            else:
                bits = int(kind[1:])
                key = next((each for each in ("mul.hi", "shf.l") if name.startswith(each)), what)
                self.registers[operands[0]] = INTEGERS[key](bits, *values) & ((1 << bits) - 1)

    def convert(self, parts: list[str], operand: str) -> Any:
        value = self.read(operand, parts[-1])
        to = parts[-2]
        if to == "f32":
            return single(float(value))
        if isinstance(value, float):  # rounded towards zero, and kept in the range
            bits = int(to[1:])
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if to[0] == "s" else (0, (1 << bits) - 1)
            value = min(max(math.trunc(value), low), high) if math.isfinite(value) else 0
        return value & ((1 << int(to[1:])) - 1)

    def memory(self, space: str) -> Callable:
        def access(place: int, size: int, value: int | None = None) -> int:
            if space == "global":
                number = next((i for i, (begin, end) in enumerate(self.areas) if begin <= place <= end - size), None)
                assert number is not None, f"{size} bytes at {place:#x} lie outside of all arrays"
                if value is None:
                    self.counts.loaded[number] += size
                    return int.from_bytes(ctypes.string_at(place, size), "little")
                ctypes.memmove(place, value.to_bytes(size, "little"), size)
                return 0
            store = self.shared if space == "shared" else self.local
            if value is None:
                return int.from_bytes(store[place : place + size], "little")
            store[place : place + size] = value.to_bytes(size, "little")
            return 0

        return access

    def move(self, what: str, space: str, kind: str, operands: list[str]) -> None:
        register, place = (operands[0], operands[1]) if what == "ld" else (operands[1], operands[0])
        address, size, memory = self.address(place), int(kind[1:]) // 8, self.memory(space)
        for i, each in enumerate(re.findall(r"[^{},\s]+", register)):
            if what == "st":
                pattern = bits_of(self.read(each, "f32")) if kind == "f32" else self.read(each, f"u{8 * size}")
                memory(address + i * size, size, pattern)
                self.counts.stored += size * (space == "global")
                continue
            value: Any = memory(address + i * size, size)
            if kind == "f32":
                value = from_bits(value)
            elif kind[0] == "s" and value >> (8 * size - 1):
                value -= 1 << 8 * size
            self.registers[each] = value


def _dp4a(a: int, b: int, c: int) -> int:
    """dp4a.u32.u32: c plus the products of a's bytes and b's."""
    return (c + sum((a >> shift & 0xFF) * (b >> shift & 0xFF) for shift in (0, 8, 16, 24))) & 0xFFFFFFFF


def _dp2a(a: int, b: int, c: int) -> int:
    halves = [(a >> 16 * i & 0xFFFF) - (0x10000 if a >> 16 * i & 0x8000 else 0) for i in (0, 1)]
    return c + halves[0] * (b & 0xFF) + halves[1] * (b >> 8 & 0xFF)


def _permute(_: int, a: int, b: int, choice: int) -> int:
    pool = a | b << 32
    return sum((pool >> 8 * (choice >> 4 * i & 7) & 0xFF) << 8 * i for i in range(4))


def _divide(a: float, b: float) -> float:
    return a / b if b else math.copysign(math.inf, a)


COMPARE: dict[str, Callable] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
WIDE: dict[str, Callable] = {"mul": lambda a, b: (a * b) & (2**64 - 1), "dp2a": _dp2a, "dp4a": _dp4a}
FLOATS: dict[str, Callable] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "fma": lambda a, b, c: a * b + c,
    "max": max, "min": min, "abs": abs, "neg": lambda a: -a, "div": _divide, "sqrt": math.sqrt,
}  # fmt: skip
INTEGERS: dict[str, Callable] = {  # the width first
    "add": lambda _, a, b: a + b, "sub": lambda _, a, b: a - b, "mul": lambda _, a, b: a * b,
    "mul.hi": lambda bits, a, b: a * b >> bits, "mad": lambda _, a, b, c: a * b + c,
    "div": lambda _, a, b: a // b, "rem": lambda _, a, b: a % b, "max": lambda _, a, b: max(a, b),
    "min": lambda _, a, b: min(a, b), "abs": lambda _, a: abs(a), "neg": lambda _, a: -a, "not": lambda _, a: ~a,
    "and": lambda _, a, b: a & b, "or": lambda _, a, b: a | b, "xor": lambda _, a, b: a ^ b,
    "shl": lambda bits, a, b: a << (b & 0xFFFFFFFF) if (b & 0xFFFFFFFF) < bits else 0,
    "bfi": lambda _, a, b, at, num: b & ~((1 << num) - 1 << at) | (a & (1 << num) - 1) << at,
    "bfe": lambda _, a, at, num: a >> at & (1 << num) - 1,
    "shf": lambda _, a, b, c: (a | b << 32) >> (c & 31),  # to the right, wrapping
    "shf.l": lambda _, a, b, c: (a | b << 32) << (c & 31) >> 32,
    "shr": lambda bits, a, b: a >> min(b & 0xFFFFFFFF, bits), "prmt": _permute,
}  # fmt: skip
