"""Send a folder to the Hub in one commit, and get one, through huggingface_hub."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from intarsia.errors import UsageError, UserError
from intarsia.files import read_json, write_json

_NOTE = ".pulled.json"  # which commit of which repository a folder is
PULLED = {_NOTE, ".cache"}  # what a pull leaves beside the files; the second is the client's
_TEMPORARY = ".tmp-"
RepoType = Literal["model", "dataset"]


def files_of(folder: Path) -> dict[str, Path]:
    """Path in the repository -> file, of everything that is finished and not hidden."""
    found = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return {
        name: path
        for name, path in found.items()
        if _TEMPORARY not in name and not any(part.startswith(".") for part in Path(name).parts)
    }


def push_files(
    repo: str, repo_type: RepoType, files: Mapping[str, Path | bytes], message: str, private: bool = False
) -> str:
    """Send files in one commit, so that nobody can get half of them; what the Hub has is not sent again.

    Args:
        repo: OWNER/NAME; it is made if it does not exist.
        repo_type: kind of repository.
        files: path in the repository -> file, or its content.
        message: first line of the commit.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UserError: if the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _explained(repo, repo_type):
        api = HfApi()
        api.create_repo(repo, repo_type=repo_type, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, repo_type=repo_type)
    return str(commit.commit_url)


def pull_folder(
    repo: str, repo_type: RepoType, out: Path, markers: Sequence[str], revision: str | None = None
) -> str:
    """Get all files of a repository; the same call again continues, and does nothing once all are there.

    Args:
        repo: OWNER/NAME.
        repo_type: kind of repository.
        out: folder to make.
        markers: files of which a repository must have one; they come last, so that they mark a whole folder.
        revision: branch, tag or commit; the newest commit if None.

    Returns:
        The commit.

    Raises:
        UsageError: if `out` has other files, or another commit.
        UserError: if the Hub cannot be reached, refuses, or has no such files.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    with _explained(repo, repo_type):
        info = HfApi().repo_info(repo, repo_type=repo_type, revision=revision)
        names = [file.rfilename for file in getattr(info, "siblings", None) or []]
        last = [name for name in markers if name in names]
        if not last:
            raise UserError(f"{repo} has no {' or '.join(markers)}: it holds something else")
        commit = str(info.sha)
        _claim(out, {"repo": repo, "type": repo_type, "commit": commit})
        snapshot_download(
            repo,
            repo_type=repo_type,
            revision=commit,
            local_dir=out,
            ignore_patterns=[*last, ".gitattributes"],
        )
        for name in last:
            hf_hub_download(repo, name, repo_type=repo_type, revision=commit, local_dir=out)
    return commit


def _claim(out: Path, what: dict[str, str]) -> None:
    """Note what a folder is to hold; refuse one that holds something else."""
    note = out / _NOTE
    if note.is_file():
        if (here := read_json(note)) != what:
            changed = [
                f"{key} {here.get(key)} -> {value}" for key, value in what.items() if here.get(key) != value
            ]
            raise UsageError(
                f"{out} was pulled before: {', '.join(changed)}; give another folder, or --revision "
                f"{here.get('commit')}"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} has other files; give a folder that does not exist")
    out.mkdir(parents=True, exist_ok=True)
    write_json(note, what)


@contextmanager
def _explained(repo: str, repo_type: RepoType) -> Iterator[None]:
    """Raise what the Hub's client raises as one sentence."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.HFValidationError:
        raise UsageError(f"{repo!r} is not a name of a repository; write OWNER/NAME") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo} has no such branch, tag or commit") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403, 404):
            raise UserError(
                f"{hub} has no {repo_type} {repo} that you may use ({code}); check the name, and log in: "
                "`hf auth login`, or HF_TOKEN"
            ) from error
        raise UserError(
            f"{hub} answers {code or 'an error'}: {_first_line(error)}; run again later"
        ) from error
    except Exception as error:
        own = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
        if not (isinstance(error, own) or type(error).__module__.startswith("httpx")):  # the client's HTTP
            raise
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UserError(
            f"{hub} cannot be reached{offline}: {_first_line(error)}; the same command again continues"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
