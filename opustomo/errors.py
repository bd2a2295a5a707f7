"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """A mistake in the input or the options, told in one sentence.

    The sentence names the file, row or option, what was expected there and what to do about it. Commands
    print it on stderr and exit with 1; no traceback is shown.
    """
