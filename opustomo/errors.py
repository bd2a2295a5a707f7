"""Exception for faults that the user can correct."""


class UserError(Exception):
    """Error in the input or the options, reported in one sentence.

    The sentence names the file, row or option, what was expected there and what to do about it. Commands
    print it on stderr and exit with 1; no traceback is shown.
    """
