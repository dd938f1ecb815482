"""FeatEnHancer, and any detector behind it."""

import lazy_loader

# Named in __init__.pyi and loaded when first used: the paper's declaration, in this folder, is read without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
