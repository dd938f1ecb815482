"""Arrays in NumPy's files: what reading a damaged ``.npy`` or ``.npz`` raises."""

import tokenize
import zipfile
import zlib

# The header of a .npy is a piece of Python that NumPy parses and then trusts; an .npz is a zip file around such.
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
