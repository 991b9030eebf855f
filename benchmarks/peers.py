"""Wheels of the packages to compare with, for a machine without a network: python -m benchmarks.peers.

They are those of adapters.py and linear_peers.py, fetched by pip for Linux on x86-64, whatever this machine is, without
what they depend on (torch, triton, numpy and packaging have to be there). A device pass takes them with --peers DIR.
quack brings a compiler of 88 MiB along, so it comes only with --quack.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = ("flashoptim", "bitsandbytes", "torchao", "liger-kernel")
QUACK = (
    "quack-kernels",
    "nvidia-cutlass-dsl",
    "nvidia-cutlass-dsl-libs-base",
    "nvidia-cutlass-dsl-libs-cu{cuda}",
    "apache-tvm-ffi",
    "torch-c-dlpack-ext",
    "einops",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# bitsandbytes has one binary for each version of CUDA and for other makers' devices: nine tenths of its wheel.
BINARY = re.compile(r"/libbitsandbytes_(?P<kind>cuda|rocm|xpu)(?P<version>\d*)\.so$")


def download(into: Path, packages: tuple[str, ...], python: str) -> int:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    return subprocess.run([*command, "--dest", str(into), *packages]).returncode


def unneeded(name: str, cuda: str) -> bool:
    found = BINARY.search(name)
    return found is not None and not (found["kind"] == "cuda" and found["version"].startswith(cuda))


def slim(wheel: Path, cuda: str) -> None:
    """Writes the wheel anew without binaries for other devices. For unpacking, not for pip: RECORD still has them."""
    with zipfile.ZipFile(wheel) as full:
        if not any(unneeded(name, cuda) for name in full.namelist()):
            return
        lean = wheel.with_suffix(".lean")
        with zipfile.ZipFile(lean, "w", zipfile.ZIP_DEFLATED) as out:
            for each in full.infolist():
                if not unneeded(each.filename, cuda):
                    out.writestr(each, full.read(each))
    lean.replace(wheel)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--into", type=Path, default=Path("build/peers"), metavar="DIR", help="default build/peers")
    parser.add_argument("--python", default="3.12", help="the Python that will use them (default 3.12)")
    parser.add_argument("--cuda", default="13", help="its CUDA, major version (default 13); all: leave wheels whole")
    parser.add_argument("--quack", action="store_true", help="also quack-kernels and what it needs: 96 MiB")
    arguments = parser.parse_args(argv)
    wanted = PACKAGES
    if arguments.quack:
        cuda = "13" if arguments.cuda == "all" else arguments.cuda
        wanted += tuple(name.format(cuda=cuda) for name in QUACK)
    arguments.into.mkdir(parents=True, exist_ok=True)
    # One by one: what one of them has no wheel for is no reason to go without the others.
    missing = [name for name in wanted if download(arguments.into, (name,), arguments.python)]
    wheels = sorted(arguments.into.glob("*.whl"))
    for wheel in wheels:
        before = wheel.stat().st_size
        if arguments.cuda != "all":
            slim(wheel, arguments.cuda)
        after = wheel.stat().st_size
        note = f" (of {before / 2**20:.1f})" if after != before else ""
        print(f"{after / 2**20:6.1f} MiB{note}  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:6.1f} MiB in {arguments.into}")
    if missing:
        print(f"no wheel came for {', '.join(missing)}; pip says why above", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
