"""What in the picture does the sentence mean?"""

import lazy_loader

# What a notebook imports is declared in __init__.pyi and loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
