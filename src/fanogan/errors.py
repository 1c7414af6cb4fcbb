"""The base of all errors that a user can mend."""


class FanoganError(ValueError):
    """What can't be done as asked, said in one sentence: what is wrong, where, and what to do.

    The command line shows the sentence alone. Any other error is a fault of the program, and keeps
    its traceback.
    """
