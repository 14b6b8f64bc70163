"""Folders on the Hugging Face Hub: which names mean one, how parts of one are fetched, how one is published.

Only `huggingface_hub` talks to the network, so its settings apply: `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, and the
cache folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ..errors import SettingsError, StoreError

Kind = Literal["model", "dataset"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(name: str | Path) -> bool:
    """Whether `user/name` means a repository on the Hub: it has one slash, and no such folder is here."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not Path(name).exists()


def repository(name: str) -> str:
    """The name of a repository to publish in; `SettingsError` if it is none."""
    if not is_hub_name(name):
        raise SettingsError(
            f"'{name}' does not name a repository; write user/name (and no folder of that name is here)"
        )
    return name


def fetch(name: str, files: Sequence[str], *, kind: Kind = "model", revision: str | None = None) -> Path:
    """The folder in the user's cache with these files of a repository (patterns as `*.json`); what is there stays.

    The folder's name is the commit that `revision` (a branch, tag or commit; None = the main branch) stands for.

    Raises:
        StoreError: there is no such repository, revision or connection, and no copy in the cache either.
    """
    from huggingface_hub import snapshot_download

    with _plain_errors(name, revision):
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(files)))


def publish(
    folder: Path,
    name: str,
    *,
    kind: Kind = "model",
    private: bool = False,
    message: str,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a folder's files as one commit to a repository, which is made if it is not there.

    Returns:
        The commit's address.

    Raises:
        StoreError: no connection, no token, or no permission.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _plain_errors(name, revision):
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name, folder_path=folder, repo_type=kind, commit_message=message, revision=revision
        )
    return str(done.commit_url)


@contextmanager
def _plain_errors(name: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise StoreError(
            f"'{name}' on the Hub has no revision '{revision}'; name a branch, a tag or a commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StoreError(
            f"there is no folder '{name}' here, and no repository of that name on the Hub that you may read; check the "
            "name, or set HF_TOKEN for a private one"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise StoreError(
            f"there is no folder '{name}' here and no copy of that repository in the Hub's cache, and the Hub cannot "
            "be reached (HF_HUB_OFFLINE, or no connection)"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalTokenNotFoundError) as error:
        said = str(error).strip().splitlines()
        raise StoreError(f"the Hub refused '{name}': {said[0] if said else type(error).__name__}") from error
