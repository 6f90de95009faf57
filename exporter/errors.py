"""What can go wrong in an export, told to a user."""

from family.errors import FamilialError

VERSIONS = "install the versions that the repository's constraints.txt names"
"""What to do where a library may have changed."""


class ExportError(FamilialError):
    """A family cannot be exported, or what was written does not pass its checks. Nothing was left behind."""
