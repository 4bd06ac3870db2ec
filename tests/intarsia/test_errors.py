"""Errors to a sentence and an exit code."""

import errno
import os
from pathlib import Path

import pytest

from intarsia.errors import EXIT_FAILURE, EXIT_INTERRUPTED, UsageError, UserError, run_command
from intarsia.files import atomic_write


def failing(error: BaseException) -> int:
    def command(_: object) -> int:
        raise error

    return run_command(command, [])


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("no such shard"), 1, "error: no such shard\n"),
        (UsageError("no such option"), 2, "error: no such option\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), EXIT_FAILURE, "error: the disk is full (No space"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted; run the same command again"),
    ],
)
def test_errors_are_a_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    assert failing(error) == code
    assert capsys.readouterr().err.startswith(sentence)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: object) -> None:
        tmp_path.write_text("a folder is no file")

    assert run_command(command, []) == EXIT_FAILURE
    assert capsys.readouterr().err == (
        f"error: {tmp_path} cannot be read or written (Is a directory); check the path and its permissions\n"
    )
    with pytest.raises(IsADirectoryError):
        run_command(command, ["--debug"])


def test_a_temporary_name_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: object) -> None:
        atomic_write(tmp_path, "a folder is no file")

    (tmp_path / "x").touch()
    assert run_command(command, []) == EXIT_FAILURE
    said = capsys.readouterr().err
    assert "cannot be read or written" in said
    assert ".tmp-" not in said
    with pytest.raises(OSError, match="tmp-"):
        run_command(command, ["--debug"])


def test_what_no_user_can_put_right_keeps_its_traceback() -> None:
    for error in (ConnectionResetError("no file"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            failing(error)
