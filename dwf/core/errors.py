"""The one exception that a user is meant to read."""


class Refused(ValueError):
    """Bad input, said in one sentence: what, which value, which rule, what to do.

    The command line prints the sentence and exits with 2; from Python it is an ordinary `ValueError`.
    """
