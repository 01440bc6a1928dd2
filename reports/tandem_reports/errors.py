"""The one exception of this package, and the exit codes that all of Tandem shares."""

GOOD = 0
BAD_RESULT = 1
USAGE = 2
NOT_ENOUGH_EVIDENCE = 4
CRASHED = 70
"""A fault of this package itself (EX_SOFTWARE of sysexits.h): no verdict."""


class ReportError(Exception):
    """Something the user can put right, said in one line; `exit_code` is what the command ends with."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
