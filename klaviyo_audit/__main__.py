"""Running the command line as ``python -m klaviyo_audit``."""

import sys

from klaviyo_audit.cli import main

if __name__ == "__main__":
    sys.exit(main())
