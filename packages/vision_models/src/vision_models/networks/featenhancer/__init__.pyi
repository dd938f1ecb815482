from .detector import EnhancedDetector as EnhancedDetector
from .network import FeatEnHancer as FeatEnHancer
