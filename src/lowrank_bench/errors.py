"""The one exception that users see as a single clear line."""


class LowRankError(ValueError):
    """Wrong input or a wrong state that a user can mend.

    The message is one line that names the culprit and the mend. The command line prints it
    without a traceback and exits with code 2; workflow jobs print it and fail.
    """
