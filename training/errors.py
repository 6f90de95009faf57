"""The errors of training. Each text says what was wrong, what was expected and what to do.

FamilialError
└── TrainingError
    ├── BaseModelError    the base model cannot be fetched, found, read or used
    ├── CheckpointError   a family folder or a training state is incomplete, altered or of another family
    └── DataError         a text file is missing, empty, malformed or too short
"""

from family.errors import FamilialError


class TrainingError(FamilialError):
    """Base of every error that training raises for a user to read."""


class BaseModelError(TrainingError):
    """The base model cannot be fetched, found, read or used; the text names it."""


class CheckpointError(TrainingError):
    """A family folder or a training state does not fit; the text names the file and the tensor or field."""


class DataError(TrainingError):
    """A text file is missing, empty, malformed or too short; the text names it."""
