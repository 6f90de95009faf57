"""The error of a setting, whichever way it came."""

from family.errors import FamilialError


class SettingsError(FamilialError):
    """A setting is missing, unknown or of the wrong form; the text names its flag, its variable or its key and file."""
