"""Colours and sizes of the pictures."""

Color = tuple[int, int, int]

BACKGROUND: Color = (24, 26, 32)
CARD: Color = (38, 41, 50)
TEXT: Color = (236, 238, 242)
FAINT: Color = (150, 156, 168)
ACCENT: Color = (92, 168, 255)
TONES: dict[str, Color] = {"replan": ACCENT, "disturbance": (255, 184, 76), "failure": (255, 107, 107), "success": (104, 211, 145)}
"""Colours of notes by their tone."""
STATES: dict[str, tuple[str, Color]] = {
    "todo": ("·", FAINT),
    "now": ("▶", ACCENT),
    "done": ("✓", TONES["success"]),
    "failed": ("✗", TONES["failure"]),
}
"""Mark and colour of a line of the plan or the task by its state."""

MAP = 480
"""Longest side of the map in pixels."""
PANEL = 340
"""Width of the panel in pixels."""
MARGIN = 12
"""Space around things in pixels."""
LINE = 18
"""Height of a line of text in pixels."""
BODY, SMALL, TITLE = 13, 11, 14
"""Sizes of the fonts in pixels."""
NOTE_LINES = 4
"""Least number of lines below the map."""
MIN_HEIGHT = 520
"""Least height of a picture in pixels: the panel needs it."""
