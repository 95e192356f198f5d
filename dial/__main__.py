"""`python -m dial`."""

import sys

from dial import main

sys.exit(main())
