"""Screenshots as pictures of 8-bit colour; see `core_runtime.pictures`."""

from core_runtime.pictures import MOST_PIXELS
from core_runtime.pictures import Picture as Screenshot
from core_runtime.pictures import open_picture as open_screenshot
from core_runtime.pictures import read_picture as read_screenshot

__all__ = ["MOST_PIXELS", "Screenshot", "open_screenshot", "read_screenshot"]
