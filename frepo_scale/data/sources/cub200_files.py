"""The files of CUB-200-2011: its tables, and the images by their paths below images/."""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, text_lines
from frepo_scale.data.archive import ZIPS, damage, members
from frepo_scale.data.sources.census import BESIDE, LEFTOVER, Census, leftover
from frepo_scale.data.sources.listing import Poll
from frepo_scale.data.sources.zip_files import ZipFiles

FOLDER = "CUB_200_2011"
IMAGES, LABELS, CLASSES = "images.txt", "image_class_labels.txt", "classes.txt"
SPLIT = "train_test_split.txt"  # 1: a training image
TABLES = (IMAGES, LABELS, CLASSES, SPLIT)
_AGAIN = "download the archive again or unpack all of it"
Files = dict[str, tuple[str, int, int]]  # file, offset and size by path below images/


def wrong(path: Path, what: str) -> InputError:
    """The error for a copy that is not complete."""
    return InputError(f"{path}: {what}", f"all files of {FOLDER}, unchanged", _AGAIN)


def find_root(path: Path) -> Path | None:
    """The folder with the tables; None without it."""
    return next((f for f in (path, path / FOLDER) if (f / LABELS).is_file()), None)


def read_table(texts: dict[str, bytes], name: str, path: Path) -> dict[str, str]:
    """The lines "number value" of a table, by number."""
    if name not in texts:
        raise wrong(path, f"{name} is missing")
    rows = [line.split() for line in text_lines(decode_text(texts[name], f"{path}/{name}"))]
    table = {row[0]: row[1] for row in rows if len(row) == 2 and _is_number(row[0])}
    if not rows or len(table) < len(rows):
        raise wrong(path, f"{name} does not have 'number value' in every line, each number once")
    return table


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def read_files(path: Path, poll: Poll) -> tuple[Files, dict[str, bytes], Census]:
    """All files below images/, the tables, and the count of everything else."""
    census = Census()
    root = find_root(path) if path.is_dir() else None
    if root is not None:
        if root != path:
            census.folder(path, (), {root.name})
        return *_unpacked(root, census, poll), census
    found: Files = {}
    texts: dict[str, bytes] = {}
    if path.name.endswith(ZIPS):
        listed = ZipFiles(path, TABLES, poll)
        found, texts = listed.files, listed.texts
    else:
        for member in members(path):
            poll()
            if member.kind == "folder":
                continue
            found[member.name] = (str(path), member.offset, member.size)
            if member.name.rpartition("/")[2] in TABLES and member.kind == "file":
                texts[member.name] = member.read()
    top = next((n.removesuffix(LABELS) for n in sorted(texts) if n.endswith(LABELS)), "")
    files: Files = {}
    for name, where in found.items():
        if name.startswith(f"{top}images/"):
            files[name.removeprefix(f"{top}images/")] = where
            continue
        census.see()
        if name in texts and name.startswith(top):
            census.hold()
        else:
            census.ignore(LEFTOVER if leftover(name) else BESIDE, name)
    tables = {name: texts[top + name] for name in TABLES if top + name in texts}
    return files, tables, census


def _unpacked(root: Path, census: Census, poll: Poll) -> tuple[Files, dict[str, bytes]]:
    """The same of a folder."""
    census.folder(root, set(TABLES), {"images"})
    files: Files = {}
    with damage(root):
        images = root / "images"
        for entry in sorted(images.iterdir() if images.is_dir() else ()):
            below = sorted(entry.iterdir()) if entry.is_dir() and not leftover(entry.name) else ()
            for file in below or (entry,):
                poll()
                size = file.stat().st_size if file.exists() else 0
                files[str(file.relative_to(images))] = (str(file), 0, size)
        texts = {name: (root / name).read_bytes() for name in TABLES if (root / name).is_file()}
    return files, texts
