"""`python -m perturb.analysis.coupling`."""

import sys

from perturb.analysis.coupling.coupling import main

sys.exit(main())
