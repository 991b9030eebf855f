"""Which row of the table of policies is the fastest for which product: every row, on several numbers of blocks.

Each result is compared with torch's in float32, wrong ones are said and never the best. What is fastest in a short scan
is measured again beside the row that is selected and beside torch, interleaved; the last lines say in sentences what
the table's evidence could be. It changes nothing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import halfops
from halfops._ops import linear as ops

from . import jobs
from .bench_linear import Row, cases, failure, first_call, parser, understood, without
from .harness import Recorder, clock, interleave, timed
from .jobs import Job

SELECTED = "selected"
NO_TABLE = "no table"  # the plan of a CPU's engine
SPLITS = (2, 4, 8)
SAMPLES = 3  # of a scan
FINALISTS = 3
DISTINCT = 1.02  # times faster, at least, for a row to be proposed: less is inside the quartiles more often than not
BLOCKS = re.compile(r"(\d+) blocks?\b")


@dataclass(frozen=True)
class Variant:
    """A row of the table and a number of blocks, 0 for the row's own; no row: what is selected."""

    policy: str = ""
    blocks: int = 0

    def calling(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def forced() -> Any:
            ops.force_policy(self.policy, self.blocks)
            return call()

        return forced


def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def block_counts(tiles: int, sms: int) -> list[int]:
    """Worth trying beside a block a tile: few tiles split along the sum; as many as fill the device once or twice."""
    split = [tiles * parts for parts in SPLITS if tiles * parts <= 4 * sms]
    streams = [sms, 2 * sms] if tiles % sms and tiles < 8 * sms else []
    return [count for count in dict.fromkeys([*split, *streams]) if count != tiles]


def row_of(plan: str) -> str:
    """The row's name, with which a plan begins."""
    return plan.partition(",")[0]


def blocks_of(plan: str) -> int | None:
    found = BLOCKS.search(plan)
    return int(found[1]) if found else None


@dataclass
class Scan:
    """Seconds by plan, the variant behind each, and what went wrong."""

    seconds: dict[str, float]
    behind: dict[str, Variant]
    wrong: dict[str, str]
    selected: str


def scan(job: Job, dtype: torch.dtype, device: torch.device) -> Scan:
    reference, call, sample = jobs.reference(job), job.call(job.ours), clock(device)
    found, sms = Scan({}, {}, {}, ""), processors(device)

    def tried(variant: Variant) -> str | None:
        """What it ran as; None where its result is wrong, or where the row cannot serve the product."""
        ops.force_policy(variant.policy, variant.blocks)
        try:
            # A sum grows with every call: it is right only in a provider's first one.
            first_call(job, job.call(job.ours) if job.sums_into is not None else call, reference, dtype)
        except Exception as error:
            found.wrong[f"{variant.policy or SELECTED}, {variant.blocks or 'its own'} blocks"] = failure(error)
            return None
        plan = ops.last_plan() or NO_TABLE
        if variant.policy not in ("", row_of(plan)):
            return None  # what is selected ran instead
        if plan not in found.seconds:
            found.seconds[plan] = statistics.median(sample(call).seconds for _ in range(SAMPLES))
            found.behind[plan] = variant
        return plan

    try:
        found.selected = tried(Variant()) or ""
        for policy in ops.policies():
            plan = tried(Variant(policy))  # a block a tile
            for blocks in block_counts(blocks_of(plan) or 0, sms) if plan else ():
                tried(Variant(policy, blocks))
    finally:
        ops.force_policy("", 0)
    return found


def tune(job: Job, about: Row, dtype: torch.dtype, device: torch.device, rounds: int) -> list[Row]:
    """A row for what is selected, for the finalists and for torch; the selected one's has the scan."""
    found = scan(job, dtype, device)
    for name, said in found.wrong.items():
        print(f"  {job.name:24} {name}: {said}")
    if found.selected not in found.seconds:
        return [
            {**about, "provider": SELECTED, "error": "what is selected gives no right result", "wrong": found.wrong}
        ]
    ranked = sorted(found.seconds, key=lambda plan: found.seconds[plan])
    finalists = [plan for plan in ranked if plan != found.selected][:FINALISTS]
    call = job.call(job.ours)
    try:
        timings = interleave(
            {
                SELECTED: Variant().calling(call),
                **{plan: found.behind[plan].calling(call) for plan in finalists},
                "torch": job.call(job.torch),
            },
            rounds=rounds,
            seconds=2,
            device=device,
        )
    finally:
        ops.force_policy("", 0)
    rows = []
    for provider, timing in timings.items():
        row = {
            **about,
            **timed(provider, timing),
            "gflop_per_s": job.flops / timing.median / 1e9,
            "faster": timings[SELECTED].median / timing.median,
        }
        if provider == SELECTED:
            row |= {
                "plan": found.selected,
                "scanned_ms": {plan: found.seconds[plan] * 1e3 for plan in ranked},
                "wrong": found.wrong,
            }
        elif provider != "torch":
            row |= {"plan": provider, "policy": found.behind[provider].policy}
        rows.append(row)
    print(told(job.name, rows))
    return rows


def best(rows: Sequence[Row]) -> Row:
    """The fastest of ours among the rows of one job."""
    return min((row for row in rows if row["provider"] != "torch"), key=lambda row: row["ms"])


def told(name: str, rows: Sequence[Row]) -> str:
    selected, first = rows[0], best(rows)
    torch_ms = next(row["ms"] for row in rows if row["provider"] == "torch")
    line = f"  {name:24} selected {selected['plan']}: {selected['ms']:.3f} ms ({torch_ms / selected['ms']:.2f}x torch)"
    if first is selected:
        return line + ", the best"
    return line + f"; best {first['plan']}: {first['ms']:.3f} ms, {first['faster']:.2f}x"


def proposals(rows: Sequence[Row]) -> list[str]:
    """Sentences for the table, from the rows of any number of jobs: what each row of it wins, and by how much."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "ms" in row:
            groups.setdefault((row["case"], row["job"]), []).append(row)
    won: dict[str, list[tuple[str, float]]] = {}
    kept = 0
    for (case, job), group in groups.items():
        first = best(group)
        if first["faster"] < DISTINCT:
            kept += 1
            continue
        won.setdefault(first["policy"], []).append((f"{case} {job}", first["faster"]))
    count = len(groups)
    lines = [f"selection: within {DISTINCT - 1:.0%} of the best row for {kept} of {count} products"]
    for policy, wins in sorted(won.items(), key=lambda item: -len(item[1])):
        gain = statistics.median(faster for _, faster in wins)
        names = ", ".join(f"{name} ({faster:.2f}x)" for name, faster in wins[:4]) + (", ..." if len(wins) > 4 else "")
        lines.append(
            f"row {policy}: better than what is selected for {len(wins)} of {count} products, "
            f"median {gain:.2f}x: {names}"
        )
    return lines


def main(argv: list[str] | None = None) -> int:
    made = parser(__doc__ or "")
    given = understood(made, made.parse_args(argv))
    if not halfops.has_kernel("linear", given.device.type):
        print(f"tune: no linear on {given.device.type} yet")
        return 0
    if not (given.device.type == "cuda" and ops.policies()):
        print(f"no table of policies on {given.device.type}: a rehearsal, of what runs beside torch")
    recorder = Recorder("tune", given.device, given.out if given.record else None)
    with torch.no_grad():
        for about, dtype, product, _ in cases(given, recorder):
            print(f"\n{about['case']}")
            rows: list[Row] = []
            try:
                for job in jobs.all_of(product, dtype, given.device):
                    rows += tune(job, {**about, "job": job.name}, dtype, given.device, 5 if given.quick else 11)
            except Exception as error:  # the other cases can still be tuned
                rows.append(without({**about, "job": "all"}, "all", "error", failure(error)))
            recorder.add(rows)
    recorder.close()
    print()
    for sentence in proposals(recorder.rows):
        print(sentence)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
