"""From stored rows to numbers: DataFrames in, DataFrames out."""

from . import comparison as comparison
from . import dataset as dataset
from . import exploits as exploits
from . import findings as findings
from . import load as load
from . import outcomes as outcomes
from . import recompute as recompute
from . import reward_effects as reward_effects
from . import skills as skills
from . import stats as stats
from . import text as text
from . import token_credit as token_credit
from . import tool_use as tool_use
from . import training as training
from . import treatment as treatment
from . import ungrounded as ungrounded
