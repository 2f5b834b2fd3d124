"""Bundles on a hub: `hf://owner/name@revision`, read at one commit into a cache on disk, and written.

Nothing of a bundle executes. A commit names the content of all files, and is read only once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import extra
from tiledseg._storage import DiskCache, json_of, write_text
from tiledseg._validate import instance_of, invalid, named, shown
from tiledseg.errors import BundleError, FileError, SettingError
from tiledseg.models.bundle import CONFIG, FILES
from tiledseg.models.weights import ONNX, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("tiledseg")
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_SECONDS = 20  # until a hub that does not answer counts as one that cannot be reached
_FORM = 'Write "hf://owner/name", or "hf://owner/name@revision" with a commit, a tag or a branch.'


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of a hub at a revision."""

    name: str  # owner/name
    revision: str = "main"  # a commit, a tag or a branch

    @classmethod
    def of(cls, text: str) -> HubName:
        """Read an address such as ``hf://owner/name@revision``."""
        found = _ADDRESS.fullmatch(instance_of(str, text, "path", _FORM))
        parts = found["name"].split("/") if found else []
        if found is None or any(part.strip(".") == "" or ".." in part for part in parts):
            raise invalid(SettingError, "path", must="be the address of a model", got=text, fix=_FORM)
        return cls(found["name"], found["revision"] or "main")

    @property
    def key(self) -> str:
        """Name of its folder in the cache."""
        return self.name.replace("/", "--")

    def at(self, revision: str) -> str:
        """Return its address at a revision."""
        return f"hf://{self.name}@{revision}"


def is_hub_address(path: object) -> bool:
    """Say whether a path is the address of a model of a hub."""
    if isinstance(path, Path) and path.parts[:1] == ("hf:",):
        fix = "Give it as text: a pathlib.Path turns // into /."
        raise invalid(SettingError, "path", must="be a whole address", got=str(path), fix=fix)
    return isinstance(path, str) and path.startswith("hf:")


def cache_folder() -> Path:
    """Return the folder of downloaded models: beside those of the hub's own library."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home, "tiledseg")


def fetched(address: str) -> Path:
    """Return the folder of a bundle of a hub, downloaded at the first time."""
    model = HubName.of(address)
    root = cache_folder() / model.key
    commit, licence = _resolved(model, root)
    cache = DiskCache(root)
    folder = cache.find(commit)
    if folder is None:
        files, licence = _files_of(model, commit)
        folder = cache.keep(commit, lambda part: _download(model, commit, files, part))
        write_text(root / f"{commit}.json", json.dumps({"licence": licence}))
    licence = licence or _recorded(root / f"{commit}.json").get("licence")
    pinned = "" if model.revision == commit else f', now commit {commit}; "{model.at(commit)}" stays the same'
    _log.warning("%s%s. Licence: %s.", address, pinned, shown(licence or "not stated"))
    return folder


def _recorded(path: Path) -> dict[str, Any]:
    try:
        found = json_of(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _resolved(model: HubName, root: Path) -> tuple[str, str | None]:
    """Return the commit of a revision; without a connection, that of the last time."""
    if _COMMIT.fullmatch(model.revision):
        return model.revision, None
    known = root / "revisions.json"
    revisions = _recorded(known)
    try:
        info = _asked(
            model, lambda hub: hub.model_info(model.name, revision=model.revision, timeout=_SECONDS)
        )
    except _UnreachableError as error:
        commit = revisions.get(model.revision)
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise _no_connection(model, error) from error
        _log.warning("The hub cannot be reached: %s is used as it was at the last time.", model.at(commit))
        return commit, None
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        fix = "Check HF_ENDPOINT."
        raise invalid(BundleError, model.name, must="have a commit", got=shown(commit), fix=fix)
    root.mkdir(parents=True, exist_ok=True)
    write_text(known, json.dumps(revisions | {model.revision: commit}))
    return commit, _licence_of(info)


def _licence_of(info: Any) -> str | None:
    card = getattr(info, "card_data", None)
    found = card.get("license") if card is not None else None
    return str(found) if found else None


def _files_of(model: HubName, commit: str) -> tuple[list[str], str | None]:
    """Return the files of a bundle at a commit, and its licence."""
    try:
        info = _asked(model, lambda hub: hub.model_info(model.name, revision=commit, timeout=_SECONDS))
    except _UnreachableError as error:
        raise _no_connection(model, error) from error
    there = [one.rfilename for one in info.siblings or ()]
    files = [name for name in there if name in FILES]
    if CONFIG not in files or not {WEIGHTS, ONNX} & set(files):
        got = shown(", ".join(sorted(there)[:8]) or "no file")
        fix = "Load what `Segmenter.push` uploaded; download an ONNX file, and give its path."
        raise invalid(BundleError, model.at(commit), must="be a bundle of tiledseg", got=got, fix=fix)
    return files, _licence_of(info)


def _download(model: HubName, commit: str, files: list[str], part: Path) -> None:
    """Download the files of a bundle into a folder, as plain files."""
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".tiledseg-") as loading:

        def download(hub: Any) -> list[Path]:
            options = {"revision": commit, "local_dir": loading}
            return [Path(hub.hf_hub_download(model.name, name, **options)) for name in files]

        try:
            paths = _asked(model, download)
        except _UnreachableError as error:
            raise _no_connection(model, error) from error
        for path in paths:
            path.rename(part / path.name)


class _UnreachableError(Exception):
    """The hub does not answer."""


def _no_connection(model: HubName, error: Exception) -> FileError:
    fix = "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE; a model that was loaded before by its commit"
    fix += " needs none."
    return invalid(FileError, model.at(model.revision), must="be reachable", got=shown(str(error)), fix=fix)


def _asked(model: HubName, ask: Callable[[Any], Any]) -> Any:
    """Ask the hub; its errors become ours."""
    errors = extra("huggingface_hub.errors", "hub")
    api = extra("huggingface_hub", "hub").HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        return ask(api)
    except errors.GatedRepoError as error:
        fix = "Ask for access on its page, then run `hf auth login` or set HF_TOKEN."
        raise _refused(model, "be open to you", error, fix) from error
    except errors.RepositoryNotFoundError as error:
        fix = "Check owner and name; for a private one run `hf auth login` or set HF_TOKEN."
        raise _refused(model, "be a model of the hub", error, fix) from error
    except errors.RevisionNotFoundError as error:
        fix = "Check the revision: a commit of 40 digits, a tag or a branch."
        raise _refused(model, "have this revision", error, fix) from error
    except ValueError as error:
        raise _refused(model, "be an address that the hub accepts", error, _FORM) from error
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_transport(error):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < 500:
            fix = "Check the rights of the token: `hf auth login`, or HF_TOKEN."
            raise _refused(model, "accept this request", error, fix) from error
        raise _UnreachableError(_line(error)) from error


def _is_of_transport(error: Exception) -> bool:
    """Recognize an error of httpx or httpx2: which of them the hub's library uses depends on its version."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _refused(model: HubName, must: str, error: Exception, fix: str) -> BundleError:
    return invalid(BundleError, model.at(model.revision), must=must, got=_line(error), fix=fix)


def _line(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".rstrip("."))


def pushed(folder: Path, address: str, *, private: bool, message: str) -> str:
    """Upload a bundle; return its address at the new commit."""
    model = HubName.of(address)
    if _COMMIT.fullmatch(model.revision):
        fix = f'Name a branch, or write "hf://{model.name}".'
        raise invalid(SettingError, "address", must="have a branch to write to", got=address, fix=fix)
    present = {path.name: path for path in sorted(folder.iterdir())}

    def upload(hub: Any) -> Any:
        hub.create_repo(model.name, private=private, exist_ok=True)
        if model.revision != "main":
            hub.create_branch(model.name, branch=model.revision, exist_ok=True)
        info = hub.model_info(model.name, revision=model.revision, timeout=_SECONDS)
        earlier = {one.rfilename for one in info.siblings or ()} & FILES - present.keys()
        library = extra("huggingface_hub", "hub")
        changes = [library.CommitOperationAdd(name, str(path)) for name, path in present.items()]
        changes += [library.CommitOperationDelete(name) for name in sorted(earlier)]
        return hub.create_commit(model.name, changes, commit_message=message, revision=model.revision)

    try:
        commit = str(_asked(model, upload).oid)
    except _UnreachableError as error:
        fix = "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE."
        raise invalid(FileError, named(address), must="be reachable", got=str(error), fix=fix) from error
    return model.at(commit)
