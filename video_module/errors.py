"""What is raised for the caller's mistakes."""


class InputError(ValueError):
    """A mistake in what the user gave; its text is one line that says what to do next.

    Scripts print it as `error: …` and exit with 1. Any other exception is a defect of ours and keeps its traceback.
    """


class Interrupted(KeyboardInterrupt):
    """A run that Ctrl-C or SIGTERM ended in good order; its text says what was saved."""

    def __init__(self, text: str, *, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code
