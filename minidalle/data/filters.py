"""Which captions and pictures from the web are worth learning from.  (Chapter 14)

Paper, appendix C: it drops captions that are too short, that a classifier (cld3) finds not to be English or
that consist primarily of boilerplate such as "photographed on <date>", and pictures with an aspect ratio
outside [1/2, 2]. The ratio is the paper's. The rules for captions are ours, simple enough to be read, and
wrong now and then: a foreign caption without a common word passes, for instance.
"""

import re

SHORT, FOREIGN, BOILERPLATE, ASPECT = (
    "with a very short caption",
    "with a caption that is not English",
    "with boilerplate for a caption",
    "outside the aspect ratios 1:2 to 2:1",
)
SHORTEST = 2  # words
WORD = re.compile(r"[^\W\d_]+")
DATES = (
    r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{1,4}",  # 2011-05-12, 12.5.2011
    r"\d{1,2}(st|nd|rd|th)?\W+[a-z]{3,9}\W+\d{4}",  # 12 May 2011, 12th May, 2011
    r"[a-z]{3,9}\W+\d{1,2}(st|nd|rd|th)?\W+\d{4}",  # May 12, 2011
    r"\d{1,2}:\d{2}(:\d{2})?",
    r"\d+",
)
PHRASES = (
    r"https?://\S+",
    r"www\.\S+",
    r"\S+\.(jpe?g|png|gif|webp|tiff?|bmp|html?)\b",
    r"\b(img|dsc|dscn|pict?|screenshot)[-_ ]?\d+",
    r"\b(photograph|photo|picture|image)(ed|s)?( was)?( taken| by| on)+\b",
    r"\b(stock|royalty[- ]free|free) (photo|image|picture|illustration|vector)(graph|graphy|s)?\b",
    r"\b(image|photo|picture|figure|page)\W+\d+( (of|/) \d+)?",
    r"\bclick (here|to enlarge|for more)\b",
    r"\bno (description|caption)( available)?\b",
    r"\ball rights reserved\b",
    r"\b(untitled|thumbnail|copyright)\b",
)
STANDARD = re.compile("|".join(PHRASES + DATES), re.IGNORECASE)
# Words that half of all sentences in the language have and that no English one has.
OTHERS = frozenset(
    "der das und ein eine einen einem einer ist auf mit im von für nicht dem den zwei "  # German
    "le la les une du des est dans avec sur et au aux deux "  # French
    "el los las una uno del con por para en dos y es "  # Spanish
    "il lo gli della nel che un "  # Italian
    "os um uma dois em na ao da são "  # Portuguese
    "het een op voor en niet twee "  # Dutch
    "och ett på med som av är jest na nie się z w "  # Swedish, Polish
    "bir ve ile için yang dan dengan di".split()  # Turkish, Indonesian
)
ENGLISH = frozenset(
    "a an the of in on and with at is are to for from by his her its this that over under near two".split()
)


def caption_fault(caption: str) -> str | None:
    """Why a caption would be dropped, or None: too short, not English or boilerplate (rules of ours)."""
    words = [word.lower() for word in WORD.findall(caption)]
    kept = WORD.findall(STANDARD.sub(" ", caption))
    if caption.strip() and 2 * sum(map(len, kept)) <= sum(map(len, words)):
        return BOILERPLATE  # at least half of the letters
    if not_english(words):
        return FOREIGN
    return SHORT if len(words) < SHORTEST else None


def not_english(words: list[str]) -> bool:
    """Letters beyond a … z are over a fifth, or other languages' small words outnumber English ones."""
    letters = "".join(words)
    if 5 * sum(letter.isascii() for letter in letters) < 4 * len(letters):
        return True
    return sum(word in OTHERS for word in words) > sum(word in ENGLISH for word in words)


def aspect_fault(width: int, height: int) -> str | None:
    """Why a picture would be dropped for its shape, or None: [1/2, 2] is the paper's."""
    return None if width <= 2 * height and height <= 2 * width else ASPECT
