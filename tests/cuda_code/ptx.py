"""What a kernel's PTX may compute with: correctly rounded operations, and fused ones only where the source says fma."""

from __future__ import annotations

import re

ENTRY = re.compile(r"^\s*(?:\.visible |\.weak )?\.(?:entry|func)[^\n]*?(\w+)\(", re.M)
ARITHMETIC = re.compile(
    r"^\s*(?:@!?%p\d+ )?([a-z]\w*(?:\.\w+)*\.(?:f16|f16x2|bf16|bf16x2|f32|f64)(?:\.\w+)*)[ \t]", re.M
)

# Exact whatever the operands: moves, choices, comparisons, signs, conversions to a format that has every value, and
# roundings to an integer.
EXACT = re.compile(
    r"(mov|ld|st|selp|setp|set|neg|abs|min|max|copysign|testp|shfl|red|atom)\.|"
    r"cvt\.(f32\.f16|f32\.bf16|f64\.f32|f64\.f16|rzi\.\w+\.f(32|64)|rni\.\w+\.f(32|64))$"
)
ROUNDED = re.compile(
    r"(add|sub|mul|div|rcp|sqrt)\.rn\.(f32|f64)$|cvt\.rn\.(f16|f16x2|bf16|bf16x2|f32)\.(f32|f64|[su]\d+)$|cvt\.rn\.f64\.[su]\d+$"
)


# What csrc/math/activation.h takes where it is compiled for a GPU.
ACTIVATION = {"ex2.approx.ftz.f32", "rcp.approx.ftz.f32", "fma.rn.f32"}


def kernels(text: str) -> dict[str, str]:
    """The body of each kernel and function, by mangled name."""
    starts = list(ENTRY.finditer(text))
    ends = [following.start() for following in starts[1:]] + [len(text)]
    return {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=True)}


def operations(body: str) -> set[str]:
    return set(ARITHMETIC.findall(body))


def wrong_operations(body: str, fused_doubles: bool, approximates: bool = False) -> set[str]:
    """Those that round otherwise than once to nearest, flush subnormals or approximate; fma unless it is wanted."""
    wanted = ({"fma.rn.f64"} if fused_doubles else set()) | (ACTIVATION if approximates else set())
    return {name for name in operations(body) - wanted if not EXACT.match(name) and not ROUNDED.match(name)}
