"""The layers of confinement that this machine has, and what they let a worker read."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache

from . import confinement, values, worker

REMEDIES = {  # by layer
    "seccomp": "it needs Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER",
    "landlock": "it needs Linux 5.13 or newer, booted with landlock among its LSMs (lsm=landlock,…)",
    "bubblewrap": "install bubblewrap (apt install bubblewrap) and allow user namespaces",
}
WORKER = os.path.abspath(worker.__file__)
CONFINEMENT = os.path.abspath(confinement.__file__)
VALUES = os.path.abspath(values.__file__)


@cache
def available_layers() -> dict[str, bool]:
    """Whether this machine has each layer, found by trying it."""
    if not sys.platform.startswith("linux"):
        return dict.fromkeys(REMEDIES, False)
    bubblewrap = False
    if shutil.which("bwrap"):
        probe = [*bubblewrap_command(), sys.executable, "-I", "-S", "-c", ""]
        with contextlib.suppress(subprocess.TimeoutExpired):
            bubblewrap = subprocess.run(probe, capture_output=True, timeout=10).returncode == 0
    return {
        "seccomp": confinement.seccomp_available(),
        "landlock": confinement.landlock_abi() > 0,
        "bubblewrap": bubblewrap,
    }


def readable_paths() -> list[str]:
    """Paths that a call may read: Python's library, installed packages, and the shared libraries they load."""
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/null"]
    return list(dict.fromkeys([*library, *system]))


def bubblewrap_command() -> list[str]:
    """The command that starts the command after it in new namespaces, where few files besides Python's exist."""
    executable = os.path.realpath(sys.executable)
    python = [os.path.dirname(sys.executable), os.path.dirname(executable), os.path.join(sys.prefix, "pyvenv.cfg")]
    python.append(os.path.join(sys.base_prefix, "lib"))
    bwrap = str(shutil.which("bwrap"))  # an absolute path, since a worker's PATH is not the caller's
    command = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--dev", "/dev"]
    for path in [*readable_paths()[:-1], *python, WORKER, CONFINEMENT, VALUES]:  # all but /dev/null, which --dev brings
        command += ["--ro-bind-try", path, path]
    return [*command, "--chdir", "/"]
