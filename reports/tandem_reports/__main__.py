"""``python -m tandem_reports`` is ``tandem-report``."""

import sys

from tandem_reports.cli import main

if __name__ == "__main__":
    sys.exit(main())
