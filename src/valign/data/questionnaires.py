"""What is known of published questionnaires without their items: keys, scales, and how an item is asked.

Keys: Schwartz 2003 for the PVQ, moralfoundations.org for the MFQ-30. Labels name the scale points; the question around
an item is the project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LIKE_ME = (
    "very much like me",
    "mostly like me",
    "somewhat like me",
    "a little like me",
    "mostly not like me",
    "not like me at all",
)
APPLIES = ("fully", "largely", "somewhat more than not", "somewhat less than not", "hardly", "not at all")


@dataclass(frozen=True)
class Questionnaire:
    """One questionnaire.

    key     item numbers by dimension        count   items in the whole, catch items included
    labels  answers from the highest number to the lowest; numbers run down by 1 from `high`
    lead    what stands before an item       question  what is asked
    """

    count: int
    labels: tuple[str, ...]
    high: int
    lead: str
    question: str
    key: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


_PERSON = ("Description", "How much is the person described like you?")

QUESTIONNAIRES: Mapping[str, Questionnaire] = {
    "portraits": Questionnaire(80, LIKE_ME, 6, *_PERSON),
    "pvq40": Questionnaire(40, LIKE_ME, 6, *_PERSON, key={
        "SD": (1, 11, 22, 34), "ST": (6, 15, 30), "HE": (10, 26, 37), "AC": (4, 13, 24, 32), "PO": (2, 17, 39),
        "SE": (5, 14, 21, 31, 35), "TR": (9, 20, 25, 38), "CO": (7, 16, 28, 36), "BE": (12, 18, 27, 33),
        "UN": (3, 8, 19, 23, 29, 40),
    }),
    "pvq21": Questionnaire(21, LIKE_ME, 6, *_PERSON, key={
        "SD": (1, 11), "ST": (6, 15), "HE": (10, 21), "AC": (4, 13), "PO": (2, 17), "SE": (5, 14), "TR": (9, 20),
        "CO": (7, 16), "BE": (12, 18), "UN": (3, 8, 19),
    }),
    "mfq30": Questionnaire(32, APPLIES, 5, "Statement", "How far does this apply when you judge right and wrong?", key={
        "care": (1, 7, 12, 17, 23, 28), "fairness": (2, 8, 13, 18, 24, 29), "loyalty": (3, 9, 14, 19, 25, 30),
        "authority": (4, 10, 15, 20, 26, 31), "purity": (5, 11, 16, 21, 27, 32),
    }),
}  # fmt: skip
MFQ_CATCH = {"math": 6, "good": 22}  # items that nobody who reads them answers high (math) or low (good)
