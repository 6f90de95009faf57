"""What can go wrong in a calibration, told to a user."""

from family.errors import FamilialError


class ConfidenceError(FamilialError):
    """Thresholds cannot be calibrated as asked."""
