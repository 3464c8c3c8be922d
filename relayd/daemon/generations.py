"""The last configurations that were in force: the texts of their files, saved in the state directory.

1. Only the texts are saved. They name the sources of secrets and contain no secret. Only the owner can read them.
2. A failed save never fails a start or a reload: a full disk is reported, nothing else happens.
3. A text equal to the previous one is not saved twice: its file is renumbered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from relayd.dataclass import dataclass

SYSTEM_STATE = "/var/lib/relayd"
FOLDER = "generations"
MAX_GENERATIONS = 20

Texts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration that was in force: since when (`wall`), and the texts of its files, the main file first."""

    number: int
    wall: float
    texts: Texts


class Generations:
    """The folder of generations. Empty if `folder` is None. Only the daemon writes to it."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder

    @classmethod
    def of_service(cls, environment: Mapping[str, str] | None = None) -> Generations:
        """The generations in the state directory that systemd passes to the service (StateDirectory=)."""
        environment = os.environ if environment is None else environment
        state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
        return cls(os.path.join(state, FOLDER) if state else None)

    def numbers(self) -> list[int]:
        """The saved generations, oldest first."""
        if self.folder is None:
            return []
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def read(self, number: int) -> Generation:
        """Read one generation. Raises OSError, and ValueError if the file is damaged."""
        with open(self.path_of(number), encoding="utf-8", errors="surrogateescape") as file:
            data = json.load(file)
        try:
            texts = tuple((str(one["path"]), str(one["text"])) for one in data["files"])
            return Generation(int(data["generation"]), float(data["at"]), texts)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path_of(number)} is damaged") from error

    def newest(self) -> Generation | None:
        """The newest readable generation."""
        for number in reversed(self.numbers()):
            try:
                return self.read(number)
            except (OSError, ValueError):
                continue
        return None

    def number_for(self, texts: Texts) -> int:
        """The number for a start with these texts: that of the newest generation if its texts are equal."""
        newest = self.newest()
        if newest is None:
            return max(self.numbers(), default=0) + 1
        return newest.number if newest.texts == texts else newest.number + 1

    def save(self, number: int, wall: float, texts: Texts) -> str:
        """Save the configuration in force. Returns the error, or an empty string."""
        if self.folder is None:
            return ""
        newest = self.newest()
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            if newest is not None and newest.number == number and newest.texts == texts:
                return ""
            self._write(number, wall, texts)
            if newest is not None and newest.texts == texts and newest.number != number:
                os.unlink(self.path_of(newest.number))
            for old in self.numbers()[:-MAX_GENERATIONS]:
                os.unlink(self.path_of(old))
        except OSError as error:
            return f"{self.folder}: {error.strerror or error}"
        return ""

    def path_of(self, number: int) -> str:
        """The file of a generation."""
        return os.path.join(self.folder or "", f"{number}.json")

    def _write(self, number: int, wall: float, texts: Texts) -> None:
        data = {"generation": number, "at": round(wall, 3), "files": [{"path": p, "text": t} for p, t in texts]}
        temporary = f"{self.path_of(number)}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(data, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path_of(number))
        except OSError:
            os.unlink(temporary)
            raise
