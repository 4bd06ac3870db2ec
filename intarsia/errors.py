"""The error types for users, and the function that turns them into a sentence and an exit code."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


_ROOM = "make room and run again"
_FILE_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EIO: "the disk or its file server has a fault: repair it, then run the same command again",
    errno.ESTALE: "the file server lost the open file: run the same command again",
    errno.EROFS: "its file system is mounted read-only: remount it, or choose another folder",
}


_DISTRIBUTIONS = {"cv2": "opencv-python-headless"}  # of modules that are called otherwise


class UserError(Exception):
    """An error that the user can correct: one sentence with what, where, which value and what to do."""

    exit_code = EXIT_FAILURE


class UsageError(UserError):
    """The command itself is wrong: a bad option, config key or combination."""

    exit_code = EXIT_USAGE


def run_command(command: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command line and print its user errors and file errors as one sentence on standard error.

    Args:
        command: function of the arguments without the program's name; its result is the exit code (None = 0).
        argv: arguments; None = `sys.argv[1:]`. `--debug` at any place keeps the traceback.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.

    Raises:
        UserError, OSError, ModuleNotFoundError: only with `--debug`, so that Python prints the whole
            traceback. Errors that a user cannot correct are always raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        return command(arguments) or 0
    except UserError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to continue\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `... | head` closed our output; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ModuleNotFoundError) as error:
        sentence = _about_files(error) if isinstance(error, OSError) else _about_extras(error)
        if debug or not sentence:
            raise
        sys.stderr.write(f"error: {sentence}\n")
        return EXIT_FAILURE


def _about_extras(error: ModuleNotFoundError) -> str:
    """A sentence about a library of an extra that is not installed; empty for other modules."""
    import importlib.metadata

    module = (error.name or "").partition(".")[0]
    wanted = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    try:
        requirements = importlib.metadata.requires("intarsia") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return ""
    found = (re.match(r"([\w.-]+).*extra == .([\w-]+)", line) for line in requirements)
    extras = [match[2] for match in found if match and match[1] == wanted and match[2] != "dev"]
    if not extras:
        return ""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = (name.partition(".")[0] for name in frames)
    extra = next((package for package in packages if package in extras), extras[0])
    return f"{module} is not installed; install it by: python -m pip install -e '.[{extra}]'"


def file_remedy(error: OSError) -> str:
    """Advice for a full or faulty disk, independent of the file; empty for other system errors."""
    return _FILE_REMEDIES.get(error.errno or 0, "")


def _about_files(error: OSError) -> str:
    """A sentence about a file or disk error that a user can correct; empty for other system errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.strerror}); make room and run the same command again"
    remedy = file_remedy(error)
    if not error.filename:
        return f"a file cannot be read or written ({error.strerror}); {remedy}" if remedy else ""
    folder, _, name = str(error.filename).rpartition("/")
    place = folder if ".tmp-" in name else error.filename  # users do not know temporary names
    remedy = remedy or "check the path and its permissions"
    return f"{place} cannot be read or written ({error.strerror}); {remedy}"
