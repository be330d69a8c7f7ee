"""The one error that input from outside can raise."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Unusable input: an array, a file or an option that the project cannot work with.

    Its message is one sentence that names what was wrong, what was expected and, where it
    helps, what to do. The command line prints it on one line and exits with status 2.
    """
