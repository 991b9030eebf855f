"""Reads what nvdisasm prints: instructions, where they may go next, and the shortest way round a loop."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

LABEL = re.compile(r"^(\.L_\w+):")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+\{?\s*(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
TARGET = re.compile(r"`\((\.L_\w+)\)")
REGISTER = re.compile(r"\bR(\d+)\b")


@dataclass(frozen=True)
class Instruction:
    predicate: str  # of its execution; empty: always
    opcode: str
    operands: str

    @property
    def target(self) -> str | None:
        found = TARGET.search(self.operands)
        return found[1] if found else None

    @property
    def is_wide_load(self) -> bool:
        """16 bytes from global memory (a generic load is not one of these)."""
        return self.opcode.startswith("LDG.") and ".128" in self.opcode

    @property
    def is_wide_store(self) -> bool:
        return self.opcode.startswith("STG.") and ".128" in self.opcode

    @property
    def touches_memory(self) -> bool:
        """A load or store through an address, of whatever kind."""
        return re.match(r"(LDG?|STG?|LDS|STS|LDL|STL|ATOM\w*|RED\w*)(\.|$)", self.opcode) is not None

    @property
    def written(self) -> set[int]:
        """Registers that a wide load fills."""
        first = int(REGISTER.findall(self.operands)[0])
        return set(range(first, first + 4))

    @property
    def read(self) -> set[int]:
        """Registers among the sources; of a pair or group only the first is named, so the next ones count too."""
        parts = self.operands.split(",")
        no_result = self.opcode.startswith(("ST", "RED", "BRA", "ATOM"))
        text = ",".join(parts if no_result else parts[1:])
        # Of the operands before the first source one more may be a result: a predicate, which is no register.
        found = {int(number) for number in REGISTER.findall(text)}
        if self.opcode.startswith("ST") and ".128" in self.opcode:
            last = int(REGISTER.findall(text)[-1]) if REGISTER.findall(parts[-1]) else None
            found |= set(range(last, last + 4)) if last is not None else set()
        return found


@dataclass(frozen=True)
class Function:
    name: str  # mangled
    code: list[Instruction]
    labels: dict[str, int]

    def successors(self, at: int) -> list[int]:
        """Where a thread may be next. A call leads nowhere: what is looked for are ways without one."""
        now, after = self.code[at], [at + 1] if at + 1 < len(self.code) else []
        kind = now.opcode.split(".")[0]
        if kind == "BRA":
            # BRA may have a second predicate among its operands, or a condition on the whole warp.
            always = not now.predicate and now.operands.startswith("`(")
            target = self.labels.get(now.target or "")
            return ([] if target is None else [target]) + ([] if always else after)
        if kind in ("EXIT", "RET", "CALL", "BRX", "JMP"):
            return after if now.predicate else []
        if kind == "BSYNC":
            return self._after_sync(at) or after
        return after

    def _after_sync(self, at: int) -> list[int]:
        barrier = self.code[at].operands.split(",")[0].strip()
        for before in range(at - 1, -1, -1):
            opening = self.code[before]
            if opening.opcode.startswith("BSSY") and opening.operands.split(",")[0].strip() == barrier:
                return [self.labels[opening.target]] if opening.target in self.labels else []
        return []

    def shortest_round(self, start: int) -> list[int]:
        """The shortest way from an instruction back to it, in order; empty if there is none."""
        came_from: dict[int, int] = {}
        waiting = deque([start])
        while waiting:
            at = waiting.popleft()
            for following in self.successors(at):
                if following == start:
                    way = [at]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    return way[::-1]
                if following not in came_from:
                    came_from[following] = at
                    waiting.append(following)
        return []

    def wide_loops(self) -> list[list[Instruction]]:
        """The loops that load 16 bytes at a time, each as one round of the shortest kind, from its first such load."""
        found: dict[frozenset[int], list[int]] = {}
        for start, instruction in enumerate(self.code):
            if instruction.is_wide_load and not any(start in way for way in found):
                way = self.shortest_round(start)
                if way:
                    found[frozenset(way)] = way
        return [[self.code[at] for at in way] for way in found.values()]


def functions(text: str) -> dict[str, Function]:
    """By mangled name."""
    found = {}
    for part in re.split(r"^\s*\.section\s+\.text\.", text, flags=re.M)[1:]:
        name, code, labels = part.split(",")[0], [], {}
        for line in part.splitlines():
            if label := LABEL.match(line):
                labels[label[1]] = len(code)
            elif instruction := INSTRUCTION.match(line):
                code.append(Instruction(instruction[2] or "", instruction[3], instruction[4]))
        found[name] = Function(name, code, {label: at for label, at in labels.items() if at < len(code)})
    return found


def loads_in_flight(loop: list[Instruction]) -> int:
    """How many wide loads of a round are under way before the first one is needed, or anything is stored."""
    filled: set[int] = set()
    count = 0
    for instruction in loop:
        if instruction.opcode.startswith("ST") or instruction.read & filled:
            break
        if instruction.is_wide_load:
            filled |= instruction.written
            count += 1
    return count
