"""Which exceptions are a user's business, and with which exit code (operations.md section 2)."""

from pbft.cli import exit_codes
from pbft.errors import PbftError


class CommandFailed(PbftError):
    """A command could not do what it was asked to; the text says why and what to do."""

    exit_code = exit_codes.ERROR


class TooFewReplicas(CommandFailed):
    """Not enough replicas answered to say anything."""

    exit_code = exit_codes.TOO_FEW_REPLICAS


def describe_failure(error: Exception) -> tuple[int, str] | None:
    """Exit code and text for an expected failure; None for a bug, which keeps its traceback."""
    if isinstance(error, CommandFailed):
        return error.exit_code, str(error)
    if isinstance(error, PbftError):
        return _code_of_client_error(error), str(error)
    if isinstance(error, OSError):
        return exit_codes.ERROR, str(error)
    return None


def _code_of_client_error(error: PbftError) -> int:
    """Too few replicas is a code of its own, whether or not the operation may have happened."""
    from pbft_client.errors import OutcomeUnknown, TooFewAnswers

    answers = error.answers if isinstance(error, TooFewAnswers | OutcomeUnknown) else None
    if answers is not None and answers.matching < answers.needed:
        return exit_codes.TOO_FEW_REPLICAS
    return exit_codes.ERROR
