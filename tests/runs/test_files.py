"""Files that are written as a whole, and outputs that are no regular files."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from mentorlib.core import InputError
from mentorlib.runs.files import append_rows, describe_os_error, is_stream, whole_file, write_text
from mentorlib.runs.run import Run


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link, dangling = tmp_path / "elsewhere/rows", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("elsewhere/rows")
    dangling.symlink_to(tmp_path / "elsewhere/new")
    write_text(link, "new")
    write_text(dangling, "new")
    assert link.is_symlink() and target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert dangling.is_symlink() and (tmp_path / "elsewhere/new").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "elsewhere", "link"]


def test_devices_and_pipes_are_written_through(tmp_path):
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    null.symlink_to("/dev/null")
    write_text(null, "gone")
    write_text(Path("/dev/null"), "gone")
    assert null.is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "passed on")
    reader.join(10)
    assert read == ["passed on"] and stat.S_ISFIFO(pipe.stat().st_mode) and len(os.listdir(tmp_path)) == 2
    streams = ["/dev/stdout", "/dev/fd/63", "/proc/self/fd/1", "/dev/null", str(pipe)]
    assert all(map(is_stream, streams)) and not any(map(is_stream, [tmp_path, tmp_path / "new", "/dev/shm/x"]))


def test_a_failed_file_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as handle:
        handle.write(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("write", [write_text, lambda file, _: append_rows(file, [{"a": 1}])])
def test_what_fails_is_one_line_with_the_cause(write, tmp_path):
    (tmp_path / "file").touch()
    for file, says in [
        (Path("/dev/full"), "/dev/full: No space left on device: free some space"),
        (tmp_path / ("x" * 300), "File name too long: give a shorter name"),
        (tmp_path / "file" / "x", "Not a directory|File exists"),
        (Path("/proc/nowhere/x"), "/proc/nowhere/x: "),
    ]:
        with pytest.raises(InputError, match=says) as error:
            write(file, "x")
        assert str(error.value).count("\n") == 0 and str(file) in str(error.value)


def test_causes_have_remedies():
    for code, says in [
        (errno.ENOSPC, "a: No space left on device: free some space, or give another place"),
        (errno.EROFS, "a: Read-only file system: give a place that you may read and write"),
        (errno.EACCES, "a: Permission denied: give a place"),
        (errno.EIO, "a: Input/output error"),
    ]:
        assert describe_os_error(OSError(code, os.strerror(code), "a")).startswith(says)
    assert describe_os_error(OSError("no words\nof its own")) == "no words of its own"


def test_a_run_s_name_is_short_enough_for_its_files(tmp_path):
    for name in ("x" * 300, "é" * 150):
        with pytest.raises(InputError, match=f"is {len(name)} characters long: give one of at most 200"):
            Run(name, tmp_path)
    Run("x" * 200, tmp_path).finish()
