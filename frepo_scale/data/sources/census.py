"""What became of every entry of a source: nothing is left out unsaid.

An entry is a file of a folder, a member of an archive, a record or a row of an array; a folder that
is not entered is one entry. Each becomes an image, is read for what it holds (an archive, a table
of classes), or is ignored for a reason. A source counts an entry when it meets it (`see`) and again
when it decides about it; `check` compares both counts.
"""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from frepo_scale.data.archive import damage

# Reasons to ignore an entry.
LEFTOVER = "left behind by systems or editors"
TEXT = "texts"
BESIDE = "not part of the data"
REPLACED = "replaced by a later entry of the same name"
UNLABELLED = "images without classes"
OTHER_TEST = "another test part"

# Names in lower case; whatever begins with "." (.DS_Store, ._1.png, .git) or ends with "~" as well.
_LEFTOVERS = frozenset(
    {
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin"),
        *("system volume information", "lost+found", "@eadir", "#recycle", "__pycache__"),
    }
)
_LEFTOVER_ENDINGS = ("~", ".bak", ".swp", ".orig")
_TEXTS = frozenset({"readme", "license", "licence", "copying", "makefile", "md5sums", "sha256sums"})
_TEXT_ENDINGS = (
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html"),
    *(".log", ".md5", ".sha1", ".sha256", ".py", ".sh"),
)
# Words of a name that may belong to a test part, such as testing/, val.tar or x-test-00000.
_TEST_WORDS = frozenset({"test", "testing", "val", "valid", "validation", "eval", "evaluation"})
_NAMED = 2  # entries named for each reason


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is left behind by a system or an editor."""
    lower = name.lower()
    return lower.startswith(".") or lower in _LEFTOVERS or lower.endswith(_LEFTOVER_ENDINGS)


def leftover(path: str) -> str | None:
    """The part of a path up to its first component that `is_leftover`; None without one."""
    names = path.split("/")
    for end, name in enumerate(names, 1):
        if is_leftover(name):
            return "/".join(names[:end]) + ("/" if end < len(names) else "")
    return None


def is_text(name: str) -> bool:
    """Whether a file beside images is a text, which is never taken for an image."""
    lower = name.lower()
    return lower.endswith(_TEXT_ENDINGS) or lower in _TEXTS


def looks_like_test(name: str) -> bool:
    """Whether a file or a folder ("name/") beside the training part may be a test part."""
    lower = name.lower().removesuffix("/").rsplit("/", 1)[-1]
    if is_leftover(lower) or (is_text(lower) and not name.endswith("/")):
        return False
    letters = "".join(c if "a" <= c <= "z" else " " for c in lower)
    return not _TEST_WORDS.isdisjoint(letters.split())


class Census:
    """Counts the entries of one source by what became of them; images are those of its listing.

    Attributes:
      seen: all entries.
      held: entries read for what they hold.
      ignored: entries by the reason to ignore them.
      names: the first entries of each reason.
    """

    def __init__(self, seen: int = 0) -> None:
        """With entries that are all images, such as the rows of an array."""
        self.seen, self.held = seen, 0
        self.ignored: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    def see(self, count: int = 1) -> None:
        """Counts entries that the source meets, whatever they are."""
        self.seen += count

    def hold(self, count: int = 1) -> None:
        """Counts entries, seen before, that are read for what they hold."""
        self.held += count

    def ignore(self, reason: str, name: str, count: int = 1) -> None:
        """Counts entries, seen before, that are ignored; `name` is one of them ("a/" a folder)."""
        self.ignored[reason] += count
        named = self.names.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(name)

    def folder(
        self,
        path: Path,
        held: Collection[str],
        entered: Collection[str] = (),
        reason: str = BESIDE,
    ) -> list[str]:
        """Counts the entries of a folder, not of those below it; returns the ignored ones.

        Args:
          path: the folder.
          held: names of the files that are read.
          entered: names of folders that the source counts on its own.
          reason: why all others are ignored.

        Raises:
          InputError: the folder cannot be read.
        """
        with damage(path), os.scandir(path) as entries:
            names = sorted(e.name + ("/" if e.is_dir() else "") for e in entries)
        ignored = [name for name in names if name not in held and name.rstrip("/") not in entered]
        counted = [name for name in names if name in held] + ignored
        self.see(len(counted))
        self.hold(len(counted) - len(ignored))
        for name in ignored:
            self.ignore(LEFTOVER if is_leftover(name.rstrip("/")) else reason, name)
        return ignored

    def merge(self, other: "Census") -> None:
        """Adds the counts of another part of the same source."""
        self.seen += other.seen
        self.held += other.held
        for reason, count in other.ignored.items():
            self.ignored[reason] += count
            self.names[reason] = (self.names.get(reason, []) + other.names[reason])[:_NAMED]

    def check(self, images: int) -> None:
        """Raises RuntimeError, a bug of the source, unless every entry is accounted for."""
        known = images + self.held + sum(self.ignored.values())
        if known != self.seen:
            raise RuntimeError(f"{self.seen} entries were seen and {known} accounted for")

    def line(self, images: int, skipped: Sequence[tuple[str, str]] = ()) -> str:
        """The counts in one line.

        Args:
          images: all images listed.
          skipped: name and reason of those that were skipped because they cannot be decoded.
        """
        left = {reason: (count, self.names[reason]) for reason, count in self.ignored.items()}
        reasons = Counter(reason for _, reason in skipped)
        bad = {
            reason: (count, [name for name, why in skipped if why == reason][:_NAMED])
            for reason, count in reasons.items()
        }
        return (
            f"{self.seen:,} entries seen = {images - len(skipped):,} images read"
            f" + {len(skipped):,} skipped{_by_reason(bad)}"
            f" + {sum(self.ignored.values()):,} ignored{_by_reason(left)}"
            f" + {self.held:,} archives and tables"
        )


def _by_reason(found: dict[str, tuple[int, list[str]]]) -> str:
    """In parentheses, for each reason its count and the first names; empty without reasons."""
    listed = (
        f"{count:,} {reason}: {', '.join(names)}{', ...' if count > len(names) else ''}"
        for reason, (count, names) in sorted(found.items())
    )
    text = "; ".join(listed)
    # A name may be any bytes, and the line must be one that can be printed.
    text = " ".join(text.encode(errors="replace").decode().split())
    return f" ({text})" if text else ""
