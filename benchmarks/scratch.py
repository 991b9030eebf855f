"""A place outside the checkout that holds a built halfops: made from a copy of the tree, or from a wheel.

What was built last, and from what, stands in built.json, so that a pass that is taken up again need not build again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# Of a tree without a history, that is without git's own list: what is made and not written.
MADE = (".*", "build", "dist", "out", "halfops-demo", "__pycache__", "*.egg-info", "*.so", "_build_info.json", "*.log")


def sources(root: Path) -> list[str]:
    """The files of a tree that somebody wrote: git's list (tracked, and untracked but not ignored), or all but MADE."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
            return sorted(name for name in listed if name and (root / name).is_file())
        except (OSError, subprocess.CalledProcessError):
            pass
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _made(name)]
        found += [str((Path(folder) / name).relative_to(root)) for name in files if not _made(name)]
    return sorted(found)


def _made(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in MADE)


def fingerprint(root: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


def unpack(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)


@dataclass(frozen=True)
class Scratch:
    root: Path  # the checkout
    path: Path

    @staticmethod
    def default(root: Path) -> Path:
        name = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"halfops-device-{os.getuid()}-{name}"

    def prepare(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path.stat().st_uid != os.getuid():
            raise PermissionError(f"{self.path} belongs to somebody else; choose another place with --scratch")
        self.empty.mkdir(exist_ok=True)

    @property
    def empty(self) -> Path:
        """Where processes run: nothing can be imported from there by accident."""
        return self.path / "empty"

    @property
    def tree(self) -> Path:
        return self.path / "tree"

    @property
    def peers(self) -> Path:
        return self.path / "peers"

    # -- a built halfops -----------------------------------------------------------------------------------------------

    def origin(self, wheel: Path | None) -> str:
        """What a build is made from, as one word that changes when that does."""
        if wheel is not None:
            return "wheel " + fingerprint(wheel.parent, [wheel.name])
        return "tree " + fingerprint(self.root, [name for name in sources(self.root) if "results/" not in name])

    def built(self, wheel: Path | None) -> Path | None:
        """The folder to import halfops from: the build made here from the same origin, or else the checkout's own."""
        note = self.path / "built.json"
        if note.exists():
            known = json.loads(note.read_text())
            if known["origin"] == self.origin(wheel) and Path(known["site"]).is_dir():
                return Path(known["site"])
        return self.root if wheel is None and any((self.root / "halfops").glob("_C*.so")) else None

    def remember(self, site: Path, wheel: Path | None) -> None:
        (self.path / "built.json").write_text(json.dumps({"site": str(site), "origin": self.origin(wheel)}) + "\n")

    def copy_tree(self) -> Path:
        """The sources, with their times, so that a second build compiles only what changed; what went away goes."""
        names, listed = sources(self.root), self.path / "tree.json"
        before = json.loads(listed.read_text()) if listed.exists() else []
        for name in set(before) - set(names):
            (self.tree / name).unlink(missing_ok=True)
        for name in names:
            source, target = self.root / name, self.tree / name
            if not (target.exists() and _same(source, target)):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        listed.write_text(json.dumps(names))
        return self.tree

    def install(self, wheel: Path) -> tuple[Path, str]:
        """A wheel into a folder of its own: by pip, which sees whether it fits this Python, or by hand without pip."""
        site = self.path / "site"
        shutil.rmtree(site, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        command += ["--no-index", "--no-compile", "--no-cache-dir", "--target", str(site), str(wheel)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.empty)
        if done.returncode == 0:
            return site, "installed by pip"
        if "No module named pip" in done.stderr:
            unpack(wheel, site)
            return site, "unzipped, as there is no pip"
        raise RuntimeError(f"pip does not take {wheel.name}: {(done.stderr.strip() or 'no reason given')[-300:]}")

    def unpack_peers(self, folder: Path) -> list[str]:
        """Every wheel of a folder, unpacked into one; their names and versions.

        Python reads *.pth files, which tell where a package keeps its modules, only in its own folders: a
        sitecustomize.py has it read those that came with the wheels.
        """
        shutil.rmtree(self.peers, ignore_errors=True)
        wheels = sorted(folder.glob("*.whl"))
        for wheel in wheels:
            unpack(wheel, self.peers)
        if any(self.peers.glob("*.pth")):
            reads = f"import site\n\nsite.addsitedir({str(self.peers)!r})\n"
            (self.peers / "sitecustomize.py").write_text(reads)
        return [" ".join(wheel.name.split("-")[:2]) for wheel in wheels]


def _same(source: Path, target: Path) -> bool:
    a, b = source.stat(), target.stat()
    return (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime)) and source.read_bytes() == target.read_bytes()


def commit(root: Path, site: Path | None) -> str | None:
    """HALFOPS_COMMIT; or git's word on the checkout; or, in a copy without a history, what the build says of itself."""
    if named := os.environ.get("HALFOPS_COMMIT"):
        return named
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        try:
            if told := subprocess.run(command, capture_output=True, text=True).stdout.strip():
                return told
        except OSError:  # no git here
            pass
    facts = site / "halfops" / "_build_info.json" if site is not None else None
    return json.loads(facts.read_text()).get("git") if facts is not None and facts.exists() else None
