"""Changes that are told together: what does not show any more is left out."""

from __future__ import annotations

from kernelagent.watch.changes import Change, Event

# Stands for a change that cannot be left out.
_STAYS = -1


class Batch:
    """The changes of one moment, in the order in which they happened.

    A client that takes them one after the other comes to what is there. A file that came and went
    is not told, nor the content of a file that is new; one that was put in the place of another is
    told as modified.
    """

    def __init__(self) -> None:
        self._changes: list[Change | None] = []
        # Where in the list a path was told as created, and as modified.
        self._created: dict[str, int] = {}
        self._modified: dict[str, int] = {}
        # By directory, where in the list files in it were told as deleted; and what else has
        # happened to names in it.
        self._left: dict[str, dict[str, int]] = {}

    def take(self) -> list[Change]:
        """All of them."""
        return [change for change in self._changes if change is not None]

    def create(self, path: str, *, is_directory: bool) -> None:
        """Something is there that was not."""
        deleted = self._left_in(path).get(path, _STAYS)
        if deleted != _STAYS and not is_directory:
            del self._left_in(path)[path]
            self._changes[deleted] = None
            self.modify(path, is_directory=False)
            return
        self._created[path] = self._add(Change(Event.CREATED, path, is_directory))

    def modify(self, path: str, *, is_directory: bool) -> None:
        """Content, times or rights are others."""
        if path not in self._created and path not in self._modified:
            self._modified[path] = self._add(Change(Event.MODIFIED, path, is_directory))

    def delete(self, path: str, *, is_directory: bool) -> None:
        """Something is gone; of a directory, all that was in it before it."""
        modified = self._modified.pop(path, None)
        if modified is not None:
            self._changes[modified] = None
        created = self._created.pop(path, None)
        had_some = self._left.pop(path, None) if is_directory else None
        if created is not None and not had_some:
            self._changes[created] = None
            return
        number = self._add(Change(Event.DELETED, path, is_directory))
        self._left_in(path)[path] = _STAYS if is_directory else number

    def rename(self, old: str, new: str, *, is_directory: bool, replaced: bool) -> None:
        """What was at the one path is at the other, in the place of a file if that was `replaced`.

        What is in a directory goes with it.
        """
        if is_directory:
            self._add(Change(Event.RENAMED, new, is_directory=True, old_path=old))
            # Paths mean something else from here on.
            self._created.clear()
            self._modified.clear()
            self._left.clear()
            return
        created = self._created.pop(old, None)
        if created is not None:
            self._changes[created] = None
            if replaced:
                self.modify(new, is_directory=False)
            else:
                self.create(new, is_directory=False)
            return
        self._add(Change(Event.RENAMED, new, is_directory=False, old_path=old))
        for path in (old, new):
            self._created.pop(path, None)
            self._modified.pop(path, None)
            self._left_in(path)[path] = _STAYS

    def _add(self, change: Change) -> int:
        self._changes.append(change)
        return len(self._changes) - 1

    def _left_in(self, path: str) -> dict[str, int]:
        return self._left.setdefault(path.rpartition("/")[0], {})
