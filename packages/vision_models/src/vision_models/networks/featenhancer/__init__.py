"""FeatEnHancer, and any detector behind it."""

from vision_models.networks.featenhancer.detector import EnhancedDetector as EnhancedDetector
from vision_models.networks.featenhancer.network import FeatEnHancer as FeatEnHancer
