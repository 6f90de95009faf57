"""The error of fitting a law. Its text says what was wrong, what was expected and what to do."""

from family.errors import FamilialError


class ScalingError(FamilialError):
    """Runs, a form or a law file cannot be used as they are; the text names the column, parameter or field."""
