"""The base of all errors that a user can mend."""

from fanogan.text import harmless


class FanoganError(ValueError):
    """What can't be done as asked, said in one sentence: what is wrong, where, and what to do.

    The command line shows the sentence alone. Any other error is a fault of the program, and keeps
    its traceback.
    """

    def __init__(self, sentence: str = ""):
        """Keep the sentence, in which a file's name may do no harm."""
        super().__init__(harmless(sentence))
