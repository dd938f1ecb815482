"""The text of an answer: coordinates become pointer tokens, and actions are read back."""

import re

START, PAD, END = "<|pointer_start|>", "<|pointer_pad|>", "<|pointer_end|>"
POINTER = START + PAD + END
EDGE = 0.001  # coordinates nearer to 0 or 1 than this are moved there

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_POINT = re.compile(
    rf"x={_NUMBER},\s*y={_NUMBER}"
    rf"|from_coord=\[{_NUMBER},\s*{_NUMBER}\],\s*to_coord=\[{_NUMBER},\s*{_NUMBER}\]"
)


def reformat_coordinates(text: str) -> tuple[str, list[tuple[float, float]]]:
    """An answer with pointer tokens in place of coordinates, and the coordinates in their order.

    Args:
        text: such as ``pyautogui.click(x=0.5, y=0.2)`` or ``pyautogui.dragTo(from_coord=[0.1, 0.2], to_coord=[0.9, 0.5])``.

    Returns:
        The text, and a point (x, y as shares of the image) for each pointer token in it; within 0.001 of 0 or 1 they are moved to
        0.001 and 0.999.
    """
    points: list[tuple[float, float]] = []

    def replace(match: re.Match[str]) -> str:
        numbers = [_from_edge(float(number)) for number in match.groups() if number is not None]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        points.extend(pairs)
        return ", ".join(POINTER for _ in pairs)

    return _POINT.sub(replace, text), points


def _from_edge(value: float) -> float:
    if abs(value) < EDGE:
        return EDGE
    if abs(value - 1) < EDGE:
        return 1 - EDGE
    return value
