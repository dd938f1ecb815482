"""``explainability inspect``."""

from collections import Counter
from pathlib import Path

from core_runtime.findings import Findings, FolderFindings, examine_files
from explainability.images.formats import class_folders, find_classes, find_images, parts_of


def inspect(path: Path, /) -> Findings | FolderFindings:
    """Says what a picture or a folder of pictures by class holds, and whether it can be used.

    Example: explainability inspect shapes

    Args:
        path: a picture, a folder with a folder per class (or with train, val and test), or a folder of pictures.
    """
    if path.is_file() or not path.exists():
        return examine(path)
    part, _ = parts_of(path)
    if len(class_folders(part)) >= 2:
        return examine_classes(path)
    return examine_files(path, find_images(path), examine)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first picture."""
    return examine(find_images(path)[0], pictures=True)


def examine(path: Path, *, pictures: bool = False) -> Findings:
    """Looks at one picture.

    Raises:
        UserError: it cannot be read.
    """
    from core_runtime.pictures import open_picture

    picture = open_picture(path)
    width, height = picture.size
    return Findings(
        title=path.name,
        kind="picture",
        summary=f"{width} × {height} pixels",
        details={"width": width, "height": height},
        warnings=picture.notes,
        next_commands=[f"explainability explain '{path}' --model timm:vit_small_patch16_224"],
        pictures=[(picture.image, path.name)] if pictures else [],
    )


def examine_classes(folder: Path) -> Findings:
    """Looks at pictures by class: how many, and what would mislead a training.

    Raises:
        UserError: a class without pictures, or fewer than two.
    """
    from core_runtime.identity import identity

    parts = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    parts = parts or {"all": folder}
    details, warnings, digests = {}, [], {}
    for name, part in parts.items():
        classes = find_classes(part)
        counts = {label: len(files) for label, files in classes.items()}
        details[name] = counts
        few = [label for label, count in counts.items() if count == 1]
        if few:
            warnings.append(f"{name}: one picture only of {', '.join(few)}")
        digests[name] = Counter(identity(file, full=True)["sha256"] for files in classes.values() for file in files)
        repeated = sum(count - 1 for count in digests[name].values())
        if repeated:
            warnings.append(f"{name}: {repeated} pictures are copies of others")
    names = list(parts)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = len(set(digests[first]) & set(digests[second]))
            if shared:
                warnings.append(f"{shared} pictures are both in {first} and in {second}: accuracies there are too good")
    total = sum(sum(counts.values()) for counts in details.values())
    return Findings(
        title=folder.name,
        kind="pictures by class",
        summary=f"{total} pictures of {len(details[names[0]])} classes",
        details=details,
        warnings=warnings,
        next_commands=[f"explainability train '{folder}' --out run"],
    )
