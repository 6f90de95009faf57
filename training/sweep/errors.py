"""The error of sweeps. Its text says what was wrong, what was expected and what to do."""

from training.errors import TrainingError


class SweepError(TrainingError):
    """A design or plan is malformed or asks for what cannot be run; the text names the field or the run."""
