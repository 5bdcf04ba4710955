"""Diagnosis of any PyTorch training setup: what holds its loss up, confirmed by removing it.

>>> from diagnostics import Budget, Subject, examine
"""

from diagnostics.causes import Budget
from diagnostics.diagnosis import Cause, Diagnosis, Milestone
from diagnostics.examination import examine
from diagnostics.fault import Fault, Finding, Verdict
from diagnostics.faults import CATALOGUE
from diagnostics.intervention import Intervention
from diagnostics.probe import Probe, Reading
from diagnostics.report import markdown
from diagnostics.subject import LossHistory, Subject, TextView, TokenView
from diagnostics.trial import Trial

__all__ = [
    "CATALOGUE",
    "Budget",
    "Cause",
    "Diagnosis",
    "Fault",
    "Finding",
    "Intervention",
    "LossHistory",
    "Milestone",
    "Probe",
    "Reading",
    "Subject",
    "TextView",
    "TokenView",
    "Trial",
    "Verdict",
    "examine",
    "markdown",
]
