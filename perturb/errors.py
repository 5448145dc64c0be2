"""The one error users see: what was wrong, what was given, what is allowed, how to fix it."""


class UserError(ValueError):
    """Bad input that the user can mend; commands print it without a traceback and exit with code 2."""
