"""`python -m dial`."""

import sys

from dial.cli.main import main

sys.exit(main())
