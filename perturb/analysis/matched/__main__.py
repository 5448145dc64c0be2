"""`python -m perturb.analysis.matched`."""

import sys

from perturb.analysis.matched.matched import main

sys.exit(main())
