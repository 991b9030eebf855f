"""The files with a GPU's answers: small arrays whole, large ones as a hash for each of 64 parts."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

from golden.cases import CASES, FILES, Arrays, Case, bits, name

HERE = Path(__file__).resolve().parent
WHOLE = 8192  # compressed bytes up to which an array is kept whole
PARTS = 64


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return np.array_split(array.ravel(), min(PARTS, array.size))


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def inputs_hash(arrays: Arrays) -> str:
    """Of everything that goes in: answers to other questions must not be compared."""
    text = hashlib.sha256()
    for key, array in sorted(arrays.items()):
        text.update(f"{key} {array.dtype} {array.shape}\0".encode() + array.tobytes())
    return text.hexdigest()[:16]


def packed(array: np.ndarray, kind: str) -> dict[str, object]:
    found = bits(array, kind)
    data = zlib.compress(found.astype(found.dtype.newbyteorder("<")).tobytes(), 9)
    head = {"kind": kind, "shape": list(array.shape)}
    if len(data) <= WHOLE:
        return {**head, "bits": base64.b64encode(data).decode()}
    parts = [part.astype(found.dtype.newbyteorder("<")) for part in _parts(found)]
    return {**head, "parts": [_short_hash(p.tobytes()) for p in parts], "first": [hex(int(p[0])) for p in parts]}


def difference(kept: dict, array: np.ndarray, kind: str) -> str:
    """Where an array differs from what was kept; empty: nowhere."""
    found = bits(array, kind)
    if kept["kind"] != kind or kept["shape"] != list(array.shape):
        return f"kept as {kept['kind']} {kept['shape']}, found {kind} {list(array.shape)}"
    if "bits" in kept:
        data = zlib.decompress(base64.b64decode(kept["bits"]))
        wanted = np.frombuffer(data, found.dtype.newbyteorder("<")).reshape(found.shape)
        places = np.argwhere(found != wanted)
        if not len(places):
            return ""
        at = tuple(int(i) for i in places[0])
        return f"{len(places)} differ, first at {list(at)}: {hex(int(found[at]))}, the GPU's {hex(int(wanted[at]))}"
    parts = _parts(found)
    hashes = [_short_hash(p.astype(found.dtype.newbyteorder("<")).tobytes()) for p in parts]
    wrong = [i for i, (mine, theirs) in enumerate(zip(hashes, kept["parts"], strict=True)) if mine != theirs]
    if not wrong:
        return ""
    begin = sum(len(p) for p in parts[: wrong[0]])
    firsts = f"its first is {hex(int(parts[wrong[0]][0]))}, the GPU's {kept['first'][wrong[0]]}"
    return f"{len(wrong)} of {len(parts)} parts differ, first the {len(parts[wrong[0]])} from {begin} on; {firsts}"


def read(file: str, folder: Path = HERE) -> dict | None:
    path = folder / f"{file}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write(answers: dict[str, tuple[str, Arrays]], machine: dict[str, str], folder: Path) -> list[Path]:
    """One file for each file of kernels. `answers` by case: the inputs' hash, and all arrays after the run."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in FILES:
        cases = {}
        for case in (c for c in CASES if c.file == file):
            asked, arrays = answers[name(case)]
            cases[name(case)] = {"inputs": asked, **{k: packed(arrays[k], kind) for k, kind in case.results.items()}}
        written.append(folder / f"{file}.json")
        written[-1].write_text(json.dumps({"machine": machine, "cases": cases}, indent=1) + "\n")
    return written


def differences(case: Case, asked: str, arrays: Arrays, kept: dict) -> list[str]:
    """What is otherwise than in a file's entry for this case."""
    entry = kept["cases"].get(name(case))
    if entry is None:
        return [f"{name(case)}: not recorded yet; record again"]
    if entry["inputs"] != asked:
        return [f"{name(case)}: recorded for other inputs; record again"]
    found = {key: difference(entry[key], arrays[key], kind) for key, kind in case.results.items()}
    return [f"{name(case)}: {key}: {said}" for key, said in found.items() if said]
