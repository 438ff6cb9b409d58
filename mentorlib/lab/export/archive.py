"""A run as one archive, and back.

An archive comes from somebody else, so nothing in it is trusted: tarfile's data filter checks each member, links are
refused, and a run appears under ``runs/`` only when all of it was unpacked and read.
"""

import errno
import gzip
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from ...core import InputError, one_line
from ...runs.files import describe_os_error, whole_file
from ...runs.run import Run, check_name


def save_archive(run: Run, file: str | Path) -> Path:
    """Write a run's folder as one .tar.gz, as a whole and without user names. Returns its path.

    Hidden files (locks, temporary files) are left out.

    Raises:
        InputError: the folder holds a link, whose target the archive would lack.
    """
    file = Path(file)

    def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(part.startswith(".") for part in Path(member.name).relative_to(run.name).parts):
            return None
        if not (member.isfile() or member.isdir()):
            inside = run.path / Path(member.name).relative_to(run.name)
            raise InputError(f"{inside} is a link: replace it by what it points to, then export again")
        return member.replace(uid=0, gid=0, uname="", gname="", deep=False)

    with whole_file(file) as whole, tarfile.open(file.name, "w:gz", whole, compresslevel=6) as archive:
        archive.add(run.path, run.name, filter=without_owner)
    return file


def load_archive(file: str | Path, root: str | Path = "runs", name: str | None = None) -> Run:
    """Unpack an archive of a run into ``root``, as a whole, and open it. An existing run is never changed.

    Args:
        file: an archive that `save_archive` wrote.
        root: the folder of runs.
        name: the new run's name; by default the name in the archive.

    Raises:
        InputError: no such archive; it is damaged, unsafe (links, paths out of its folder), no run's, or larger than
            the free space; or a run of that name exists.
    """
    file, root = Path(file), Path(root)
    if not file.is_file():
        raise InputError(f"{file}: {'is a folder; give a file' if file.is_dir() else 'no such file'}")
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python cannot unpack safely: update to Python 3.11.4 or later")
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream) as archive:
            size = sum(member.size for member in archive.getmembers())
            while stream.read(2**20):  # to the end: gzip checks its checksum there
                pass
            root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(root).free
            if size > free:
                raise InputError(
                    f"{file}: holds {size / 1e6:,.0f} MB, and {root} has room for {free / 1e6:,.0f}: free some"
                )
            with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as unpacked:
                archive.extractall(unpacked, filter=_files_only)
                return _adopt(file, Path(unpacked), root, name)
    except InputError:
        raise
    except tarfile.FilterError as error:
        raise InputError(f"{file}: unsafe, do not use it: {error}") from None
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
            raise InputError(describe_os_error(error)) from None
        raise InputError(f"{file}: no archive of a run, or a damaged one ({one_line(error)}); get it again") from None


def _files_only(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo:
    """tarfile's data filter, which also refuses links and absolute paths: a run has neither."""
    if not (member.isfile() or member.isdir()):
        raise tarfile.FilterError(f"{member.name!r} is a link or a device")
    if member.name.startswith("/"):
        raise tarfile.FilterError(f"{member.name!r} is an absolute path")
    return tarfile.data_filter(member, destination)


def _adopt(file: Path, unpacked: Path, root: Path, name: str | None) -> Run:
    """Move the one run that was unpacked to its place under ``root``."""
    folders = list(unpacked.iterdir())
    if len(folders) != 1 or not (folders[0] / "run.json").is_file():
        raise InputError(f"{file}: holds no run: one folder with a run.json")
    target = root / check_name(name or folders[0].name)
    if target.exists():
        raise InputError(f"{target} exists: import under another name with --name, or remove it")
    try:
        run = Run.open(folders[0])
    except InputError:  # its message would name the temporary folder
        raise ValueError("its run.json is not a run's") from None
    if not {"name", "parameters", "status", "data"} <= run.info.keys():
        raise InputError(f"{file}: its run.json is not a run's")
    if run.info["name"] != target.name:
        run.write_json("run.json", run.info | {"name": target.name})
    run.path.rename(target)
    return Run.open(target)
