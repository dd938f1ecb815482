"""What the files of the field are called. Imports nothing, so that `attention-suite try` can recognise a file at no cost."""

PLAIN_IMAGES = frozenset({".png", ".jpg", ".jpeg"})
SLIDE_SUFFIXES = PLAIN_IMAGES | {
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm",
}  # fmt: skip
