"""What each choice of k costs a client and the server, before anything is loaded (docs/plan.md)."""

from pplr.planning.advice import advice
from pplr.planning.batch import Reading
from pplr.planning.estimate import Speeds
from pplr.planning.outline import Outline, outline
from pplr.planning.plan import Circumstances, Plan, make_plan
from pplr.planning.settle import Asked, plan_of

__all__ = [
    "Asked",
    "Circumstances",
    "Outline",
    "Plan",
    "Reading",
    "Speeds",
    "advice",
    "make_plan",
    "outline",
    "plan_of",
]
