"""`python -m perturb.analysis.crosstalk`."""

import sys

from perturb.analysis.crosstalk.crosstalk import main

sys.exit(main())
