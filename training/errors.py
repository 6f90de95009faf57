"""The errors of training. Each text says what was wrong, what was expected and what to do.

FamilialError
└── TrainingError
    ├── BaseModelError    the base model cannot be fetched, found, read or used
    ├── CheckpointError   a family folder or a training state is incomplete, altered, of another family or not writable
    ├── DataError         a text is missing, empty, malformed or too short
    └── RecipeError       a training recipe contradicts itself or does not fit the family
"""

from family.errors import FamilialError


class TrainingError(FamilialError):
    """Base of every error that training raises for a user to read."""


class BaseModelError(TrainingError):
    """The base model cannot be fetched, found, read or used; the text names it."""


class CheckpointError(TrainingError):
    """A family folder or a training state does not fit; the text names the file and the tensor or field."""


class DataError(TrainingError):
    """A text is missing, empty, malformed or too short; the text names it."""


class RecipeError(TrainingError):
    """A training recipe contradicts itself or does not fit the family; the text names the field or flag."""
