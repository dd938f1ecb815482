"""Which paths are videos, by name and first bytes. Imports nothing heavy."""

from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import counted
from core_runtime.videos import ENDINGS


def claim(path: Path) -> Claim | None:
    """How sure this group is that a file, or a folder, is its own."""
    try:
        if path.is_dir():
            return _claim_folder(path)
        if path.suffix.lower() in ENDINGS and _is_video(path):
            return Claim("video", 0.8, f"it ends in {path.suffix} and begins as such files do")
    except OSError:
        return None
    return None


def _claim_folder(path: Path) -> Claim | None:
    for folder in (path, path / "videos"):  # 'sample' writes annotations beside videos/
        videos = _videos_in(folder)
        if videos:
            return Claim("folder of videos", 0.7, f"it holds {counted(len(videos), 'video')}")
    return None


def _videos_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and _is_plain_file(file)]
    return [file for file in files if _is_video(file)]


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _is_video(path: Path) -> bool:
    """Whether the first bytes are those of a container: ISO media, Matroska, RIFF, ASF, FLV, Ogg, MPEG."""
    with path.open("rb") as file:
        head = file.read(400)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return True
    begins = (b"\x1a\x45\xdf\xa3", b"RIFF", b"\x30\x26\xb2\x75", b"FLV", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3")
    if head.startswith(begins):
        return not head.startswith(b"RIFF") or head[8:12] == b"AVI "
    return head[:1] == b"\x47" and head[188:189] == b"\x47"  # packets of an MPEG transport stream
