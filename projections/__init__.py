"""accountledger's projections: balances, orders, fills, history, gaps and audit trail, folded from stored events."""

from projections.accounts import Accounts
from projections.audit import Audit
from projections.balances import Balances
from projections.breaks import Break, Breaks
from projections.checkpoints import Checkpoints
from projections.coverage import Coverage, Coverages
from projections.fills import Fills
from projections.gaps import Gap, Gaps, GapsFold
from projections.history import History
from projections.holdings import Holding
from projections.orders import Orders
from projections.quarantine import Quarantine
from projections.sessions import Listening, Session, Sessions
from projections.stated import Stated
from projections.subscription import Difference, Projection, Subscription, catch_up, compare, follow
from projections.views import Views

__all__ = [
    "Accounts",
    "Audit",
    "Balances",
    "Break",
    "Breaks",
    "Checkpoints",
    "Coverage",
    "Coverages",
    "Difference",
    "Fills",
    "Gap",
    "Gaps",
    "GapsFold",
    "History",
    "Holding",
    "Listening",
    "Orders",
    "Projection",
    "Quarantine",
    "Session",
    "Sessions",
    "Stated",
    "Subscription",
    "Views",
    "catch_up",
    "compare",
    "follow",
]
