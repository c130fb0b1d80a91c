"""The log file of a run, one line per record: `YYYY-MM-DD HH:MM:SS - module.class - LEVEL - message`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = "scarcity_ray"
FILE = "logs/scarcity.log"
"""In the folder of a run or a search."""


def get_logger(owner: type) -> logging.Logger:
    """The logger of a class, shown as `module.class` in the file (`server.Server` for scarcity_ray.actors.server.Server)."""
    return logging.getLogger(f"{owner.__module__}.{owner.__qualname__}")


class _Lines(logging.Formatter):
    """The format of the log. Every line of a message starts with time, class and level: a traceback has several lines."""

    def format(self, record: logging.LogRecord) -> str:
        where = ".".join(record.name.split(".")[-2:])
        head = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} - {where} - {record.levelname} - "
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return "\n".join(head + line for line in message.splitlines() or [""])


class _File(logging.FileHandler):
    """A log file that ignores a full disk: writing the tables reports it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing: a log line that cannot be written must not end a run or fill the screen."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path, level: int = logging.INFO, *, append: bool = False) -> Iterator[None]:
    """Sends what the package logs to the file `path`, and nowhere else, until the block ends. append: add to the file instead of
    replacing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _File(path, mode="a" if append else "w", encoding="utf-8")
    handler.setFormatter(_Lines())
    logger = logging.getLogger(ROOT)
    before = logger.level, logger.propagate
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]
