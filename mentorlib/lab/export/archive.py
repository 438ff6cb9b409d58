"""A run as one archive, and back."""

import gzip
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from ...core import InputError
from ...runs.run import Run, check_name
from .hub import _folder_of

# --- One archive ---


def save_archive(run: Run, file: str | Path) -> Path:
    """Write a run's folder as one .tar.gz, whole or not at all, without owners' names; give its path.

    Hidden files (locks, half-written ones) stay out. InputError names a link, which would not arrive.
    """
    file = Path(file)
    inside = [
        p for p in sorted(run.path.rglob("*")) if not any(x.startswith(".") for x in p.relative_to(run.path).parts)
    ]
    for link in (p for p in inside if p.is_symlink()):
        raise InputError(f"{link} is a link: put what it points to in its place, then export again")

    def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    partial = _folder_of(file) / f".{file.name}.partial"
    try:
        with tarfile.open(partial, "w:gz", compresslevel=6) as archive:
            for path in (p for p in inside if p.is_file()):
                archive.add(path, f"{run.name}/{path.relative_to(run.path).as_posix()}", filter=nobodys)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def load_archive(file: str | Path, root: str | Path = "runs", name: str | None = None) -> Run:
    """Unpack an archive of a run into ``root``, whole or not at all, and open it.

    It comes from somebody else, so nothing in it is trusted: files and folders only, all inside one folder; it never
    touches a run that is there.

    Args:
        file: what `save_archive` wrote.
        root: where runs are kept.
        name: of the new run; by default the one it had.

    Raises:
        InputError: no such archive, a broken one, one with links or paths that lead out of it, one that holds no run,
            too large for the disk; or there is a run of that name.
    """
    file, root = Path(file), Path(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python cannot unpack safely: update to Python 3.11.4 or later")
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream) as archive:
            members = archive.getmembers()
            while stream.read(2**20):  # to the very end, where the checksum of the whole is
                pass
            old = _check_members(file, members)
            target = root / check_name(name or old)
            if target.exists():
                raise InputError(f"{target} exists: import under another name with --name, or remove it")
            root.mkdir(parents=True, exist_ok=True)
            size, free = sum(m.size for m in members), shutil.disk_usage(root).free
            if size > free:
                raise InputError(f"{file}: holds {size / 1e9:.1f} GB, and {root} has room for {free / 1e9:.1f} GB")
            with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as partial:
                archive.extractall(partial, members, filter="data")
                try:
                    run = Run.open(Path(partial) / old)
                except InputError:  # names a folder that is about to go
                    raise ValueError("its run.json cannot be read") from None
                if not {"name", "parameters", "status", "data"} <= run.info.keys():
                    raise InputError(f"{file}: its run.json is not a run's")
                if run.info["name"] != target.name:
                    run.write_json("run.json", run.info | {"name": target.name})
                run.path.rename(target)
    except InputError:
        raise
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError, AttributeError) as error:
        raise InputError(f"{file}: no archive of a run, or a damaged one ({error}); get it again") from None
    return Run.open(target)


def _check_members(file: Path, members: list[tarfile.TarInfo]) -> str:
    """The one folder that all members are in."""
    tops = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()):
            raise InputError(f"{file}: {member.name!r} is a link or a device; a run has files only: do not use it")
        if not parts or PurePosixPath(member.name).is_absolute() or ".." in parts:
            raise InputError(f"{file}: {member.name!r} leads out of the run's folder: do not use it")
        tops.add(parts[0])
    if len(tops) != 1 or f"{min(tops)}/run.json" not in {m.name for m in members}:
        raise InputError(f"{file}: holds no run: one folder with a run.json")
    return tops.pop()
