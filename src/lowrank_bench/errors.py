"""The exception that users see as a single line."""


class LowRankError(ValueError):
    """Invalid input or an invalid state that the user can fix.

    The message is one line that names the cause and the fix. The command line prints it without a
    traceback and exits with code 2; workflow jobs print it and fail.
    """
