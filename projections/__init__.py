"""accountledger's projections: balances, orders, fills, history, gaps and audit trail, folded from stored events."""

from projections.accounts import Accounts
from projections.audit import Audit
from projections.balances import Balances, Holding
from projections.fills import Fills
from projections.gaps import Gaps
from projections.history import History
from projections.orders import Orders
from projections.quarantine import Quarantine
from projections.subscription import Difference, Projection, Subscription, catch_up, compare

__all__ = [
    "Accounts",
    "Audit",
    "Balances",
    "Difference",
    "Fills",
    "Gaps",
    "History",
    "Holding",
    "Orders",
    "Projection",
    "Quarantine",
    "Subscription",
    "catch_up",
    "compare",
]
