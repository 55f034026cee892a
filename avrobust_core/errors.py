"""The errors that a user can cause and mend, which the command prints without a traceback; and the warning."""


class AvrobustError(Exception):
    """Base of every error whose message is written for the user: what was wrong, where, and what to do."""


class ClipError(AvrobustError):
    """One clip cannot be read. The loader skips it, counts it and names it.

    Args:
        clip_id: the clip's id, as the data set names it.
        reason: what is wrong with it, in one sentence without the id.
    """

    def __init__(self, clip_id: str, reason: str) -> None:
        super().__init__(clip_id, reason)  # both, so that it survives pickling between worker processes
        self.clip_id = clip_id
        self.reason = reason

    def __str__(self) -> str:
        return f"clip {self.clip_id!r}: {self.reason}"


class DataError(AvrobustError):
    """A data set as a whole cannot be used: no manifest, no such split, too many unreadable clips."""


class DatasetFailure(DataError):
    """A data set fails while a run reads it: that ends the run, since none of its cells can do better.

    Other errors, of what is done with the clips, are of one evaluation or metric; the others go on.
    """


class ComponentError(AvrobustError):
    """A component's name cannot be resolved, or its configuration does not fit."""


class ModelError(AvrobustError):
    """A model cannot be used: no logits, or not of the shape asked for, not finite, never the same; no such layer."""


class WeightsError(AvrobustError):
    """Weights cannot be read, or do not fit the module that they are meant for."""


class AttackViolation(AvrobustError):
    """An attack returned something outside its threat model, or claimed what is not so."""


class BatchTimeout(AvrobustError):
    """Work on one batch took longer than `engine.batch_timeout` allows."""


class RunError(AvrobustError):
    """A run cannot be carried out or read: its folder is in use, or a file of it is damaged."""


class AvrobustWarning(UserWarning):
    """A warning for the user about something that can still be used: what was found, and where.

    A run says each of them once, and keeps them in its result.json.
    """
