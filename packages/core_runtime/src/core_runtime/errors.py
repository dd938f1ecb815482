"""What a command says when it cannot go on: one or two plain lines."""


class UserError(Exception):
    """A mistake that the person at the terminal can mend: unusable input or usage, exit status 2.

    Args:
        message: what is wrong, naming the file or option.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
