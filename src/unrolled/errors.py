"""What can be at fault, as exceptions; the command line turns each into one line and an exit code."""


class UnrolledError(Exception):
    """The data or the model is at fault; its text says what was got, what was expected, what to do."""

    exit_code = 1


class CallError(UnrolledError):
    """The call itself is at fault: an option or a text that cannot be served."""

    exit_code = 2


class DataError(UnrolledError):
    """A corpus or a file cannot be used as it is."""


class RunError(UnrolledError):
    """A run directory cannot be used as it is."""


class MissingExtraError(UnrolledError, ImportError):
    """A package of an extra is not installed; the text says which command installs it."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; "
            f"install it with: pip install {package} (the extra '{extra}' of unrolled)"
        )


class DataWarning(UserWarning):
    """A corpus or a file can be used, but is hardly what is meant; its text says what to do."""
