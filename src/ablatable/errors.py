"""Errors a user can act on: each message says what was wrong, what was expected, and what to do."""

from __future__ import annotations


class AblatableError(Exception):
    """Base of every error raised on purpose. The command line prints it as one line, without a traceback.

    `exit_code` follows the command line's convention: 1 = something was found wrong, 2 = wrong usage.
    """

    exit_code = 2


class DataError(AblatableError):
    """The training data cannot be used as units: unreadable, inconsistent, duplicated, or missing."""


class CodeError(AblatableError):
    """A code that cannot exist, or a set of units that no component survives."""


class SettingsError(AblatableError):
    """A setting is impossible, or differs from what an existing run or universe was made with."""


class StoreError(AblatableError):
    """A run or universe on disk is missing, incomplete, held by another process, or corrupt."""

    exit_code = 1


class WorkerError(AblatableError):
    """A worker process died or a task failed in it; what was finished is kept."""

    exit_code = 1
