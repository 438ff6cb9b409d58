"""From numbers to plotly figures: ``figures/x.py`` draws the tables that ``analysis/x.py`` computes.

A figure has the name of the function whose table it draws (``figures.tool_use.confusion`` draws
``analysis.tool_use.confusion``), or of what it shows where a table has several figures.
"""

from . import base as base
from . import comparison as comparison
from . import dataset as dataset
from . import exploits as exploits
from . import outcomes as outcomes
from . import reward_effects as reward_effects
from . import skills as skills
from . import token_credit as token_credit
from . import tool_use as tool_use
from . import training as training
from . import treatment as treatment
from . import ungrounded as ungrounded
