"""The exceptions and the warning that users see as a single line."""


class LowRankError(ValueError):
    """Invalid input or an invalid state that the user can fix.

    The message is one line that names the cause and the fix. The command line prints it without a
    traceback and exits with code 2; workflow jobs print it and fail.
    """


class TransientError(LowRankError):
    """A fault that has nothing to do with the work: the same call may succeed later.

    A full disk, a hub that does not answer, too little memory. It is never the result of an
    experiment: the job ends with its one line, and the next run tries again.
    """


class LowRankWarning(UserWarning):
    """A result that is as asked, but rests on less than it needs, such as too few images.

    The message is one line that names the cause and the mend. The command line prints it.
    """
