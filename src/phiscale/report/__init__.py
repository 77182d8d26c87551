"""Floor 4 · what a run looks like to a person.

Comes in: the files of a run folder; designs and a budget.  Goes out: report.html, README.md (the model card), a page of the family.
Never: imports torch; trains or measures; runs a script in the reader's browser or loads anything from elsewhere.
Start reading: folder.py (what is read), page.py (what is said), then chart.py and the templates beside them.
"""

from phiscale.report.card import write_card
from phiscale.report.family import write_family
from phiscale.report.page import write_report

__all__ = ["write_card", "write_family", "write_report"]
