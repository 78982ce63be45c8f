"""Learning on site: when there is nothing better to do, within a budget, in its own process."""

from hedgerow.serve.onsite.budget import Budget, Gauges, OnSiteSettings, Spent
from hedgerow.serve.onsite.replay import NORMAL, UNLABELLED, Replay
from hedgerow.serve.onsite.site import OnSite
from hedgerow.serve.onsite.told import Learned, OnSiteView

__all__ = [
    "NORMAL",
    "UNLABELLED",
    "Budget",
    "Gauges",
    "Learned",
    "OnSite",
    "OnSiteSettings",
    "OnSiteView",
    "Replay",
    "Spent",
]
