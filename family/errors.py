"""The errors of the shared vocabulary. Each text says what was wrong, what was expected and what to do.

FamilialError
├── SpecError        a family specification is malformed or contradicts itself
├── ManifestError    a bundle's manifest is missing, malformed or of another version
├── BundleError      a file that the manifest lists is missing, truncated or altered
└── ProfileError     a machine's profile is missing, malformed, or does not have what is asked of it
"""


class FamilialError(Exception):
    """Base of every error that this project raises for a user to read; its text is safe to print."""

    @property
    def reference(self) -> str:
        """Under what name the logs have it; empty where none has."""
        return ""


class SpecError(FamilialError):
    """A family specification is malformed; the text names the field."""


class ManifestError(FamilialError):
    """A manifest is missing, malformed or of another schema version; the text names the field."""


class BundleError(FamilialError):
    """A file of a bundle is missing, truncated or altered; the text names the file."""


class ProfileError(FamilialError):
    """A machine's profile is missing, malformed or of another version, or does not have what is asked of it."""
