"""A bundle named by its place and its digest, for processes that each load it themselves."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tiledseg._storage import sha256
from tiledseg._validate import invalid, path_text
from tiledseg.errors import BundleError, FileError
from tiledseg.models._format import CONFIG, WEIGHTS
from tiledseg.models._loading import load_model
from tiledseg.models._segmenter import Segmenter

if TYPE_CHECKING:
    from tiledseg._types import PathLike

__all__ = ["BundleReference"]

_LOADED: dict[str, Segmenter] = {}
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class BundleReference:
    """A bundle that other processes find under the same path; small where the network is large.

    Attributes
    ----------
    path : str
        The bundle's folder, absolute.
    digest : str
        SHA-256 of its settings and weights. A process that finds another bundle there refuses it.

    Examples
    --------
    >>> reference = BundleReference.of("bundle/")  # doctest: +SKIP
    >>> tiledseg.predict_files(reference, "slides/", "out/", client=client)  # doctest: +SKIP
    """

    path: str
    digest: str

    @classmethod
    def of(cls, path: PathLike) -> Self:
        """Refer to a bundle as it is now.

        Parameters
        ----------
        path : path
            The bundle's folder.

        Returns
        -------
        BundleReference
            It can be sent to any process that sees the folder.

        Raises
        ------
        BundleError
            If there is no bundle.
        """
        folder = Path(path_text(path, error=BundleError)).resolve()
        return cls(str(folder), _digest(folder))

    def load(self) -> Segmenter:
        """Load the bundle, once in each process.

        Returns
        -------
        Segmenter
            The same one for the same digest.

        Raises
        ------
        BundleError
            If it is damaged, or not the bundle that was referred to.
        """
        with _LOADING:
            if self.digest not in _LOADED:
                found = _digest(Path(self.path))
                if found != self.digest:
                    raise invalid(
                        BundleError,
                        self.path,
                        must=f"be the bundle with digest {self.digest[:12]}",
                        got=found[:12],
                        fix="Refer to it again, or let every machine see the same folder.",
                    )
                loaded = load_model(self.path)
                if not isinstance(loaded, Segmenter):
                    raise invalid(
                        BundleError,
                        self.path,
                        must="be a bundle",
                        got="a bare network",
                        fix="Save a Segmenter.",
                    )
                _LOADED[self.digest] = loaded
            return _LOADED[self.digest]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            digest.update(bytes.fromhex(sha256(folder / name)))
        except FileError as error:
            raise invalid(
                BundleError,
                str(folder / name),
                must="be readable",
                got="a file that cannot be read",
                fix="Name a bundle's folder.",
            ) from error
    return digest.hexdigest()
