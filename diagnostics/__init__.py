"""Diagnosis of any PyTorch training setup: what holds its loss up, confirmed by removing it.

>>> from diagnostics import diagnose  # diagnose(model, batch, loss_fn), or diagnose(Subject(...))
"""

from diagnostics.adapt import subject_from
from diagnostics.causes import Budget
from diagnostics.diagnosis import Cause, Diagnosis, Milestone
from diagnostics.examination import examine
from diagnostics.fault import Fault, Finding, Verdict
from diagnostics.faults import CATALOGUE
from diagnostics.front import diagnose
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
    "diagnose",
    "examine",
    "markdown",
    "subject_from",
]
