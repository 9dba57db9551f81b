"""The examiner: an independent judge that reads every fact off a picture.  (Chapter 12)

    network      the classifier, and how it judges
    lessons      what it learns from: true pictures, worn ones, spoilt ones
    examination  the examiner is examined itself
    stored       the weights that come with the package

It is the measuring instrument and no contestant. One that never saw the held-out compositions would misread
true pictures of them, and a zero-shot score would measure the judge. So it learns from these compositions as
well, with scenes of its own (`may_learn`); what it is examined on are scenes that it cannot have seen. It
never sees what a model drew while it learns, and no model, sampler or ranking ever sees it.
"""

from .examination import Finding, examine_examiner, failures, fresh, table, weakest
from .lessons import EXAMINER_SEED, STEPS, may_learn, train_examiner
from .network import ABSENT, NOTHING, Examiner, covered, shown_alone
from .stored import SHIPPED, AnotherWorld, examiner_card, load_examiner, save_examiner

__all__ = [
    "ABSENT",
    "AnotherWorld",
    "EXAMINER_SEED",
    "NOTHING",
    "SHIPPED",
    "STEPS",
    "Examiner",
    "Finding",
    "covered",
    "examine_examiner",
    "examiner_card",
    "failures",
    "fresh",
    "load_examiner",
    "may_learn",
    "save_examiner",
    "shown_alone",
    "table",
    "train_examiner",
    "weakest",
]
