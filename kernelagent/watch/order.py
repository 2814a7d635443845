"""The order in which changes are told, so that a client that takes them one by one is right."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from kernelagent.watch.changes import Change, Event
from kernelagent.watch.nodes import paced

# A rename for which more than so many steps would have to be looked at is not told as one.
_MOST = 200


@dataclass(frozen=True, slots=True)
class Place:
    """What a client called something once something had arrived at `base`; if empty, before."""

    base: str
    path: str


# An arrival at a path; or what is deleted.
Step = str | Place


class Order:
    """What arrives at paths and what leaves places, each with the steps that come before it.

    No steps wait for each other: a rename that would close such a circle is none.
    """

    def __init__(self) -> None:
        # What is at a path now and was not: created or renamed.
        self.arrived: dict[str, Change] = {}
        # Those paths, and all above them.
        self._reached: set[str] = set()
        # By which step what was at a place is taken from there.
        self._takers: dict[Place, Step] = {}
        # Where arrivals come from.
        self._origins: dict[str, Place] = {}
        self._left: dict[str, list[Place]] = {}
        self._beneath: dict[Place, list[Place]] = {}

    def place(self, path: str) -> Place:
        """The place of something that is at a path of the picture."""
        return Place(nearest(path, self.arrived), path)

    def delete(self, place: Place) -> None:
        """What was at a place is gone, unless it is moved later."""
        if place not in self._takers:
            self._take(place, place)

    def keep(self, place: Place) -> None:
        """What was at a place is not deleted yet."""
        del self._takers[place]

    def create(self, path: str, *, is_directory: bool) -> None:
        """Something new is at a path."""
        self._arrive(Change(Event.CREATED, path, is_directory))

    def move(self, path: str, place: Place, *, is_directory: bool) -> bool:
        """What was at a place is at a path now; False if no order of steps would tell that."""
        before = self._takers.get(place)
        self._arrive(Change(Event.RENAMED, path, is_directory, place.path))
        self._origins[path] = place
        self._take(place, path)
        if not self._is_awaited(place) or not self._awaits_itself(path):
            return True
        del self._origins[path], self.arrived[path]
        if before is None:
            del self._takers[place]
        else:
            self._takers[place] = before
        return False

    def is_free(self, place: Place) -> bool:
        """Whether nothing is told of a place, nor of what is above it."""
        if nearest(place.path, self.arrived):
            return False
        return not any(Place(place.base, path) in self._takers for path in _above(place.path))

    def is_told(self, place: Place) -> bool:
        """Whether a step takes what was at a place."""
        return place in self._takers

    def is_replaced(self, place: Place) -> bool:
        """Whether something else is at a place, in the same directory."""
        above = place.path.rpartition("/")[0]
        return place.path in self.arrived and nearest(above, self.arrived) == place.base

    def steps(self, early: Container[Place]) -> list[Step]:
        """All of them; what is deleted comes last unless it is `early`, from below upwards."""
        gone = [place for place, taker in self._takers.items() if place == taker]
        gone.sort(key=lambda place: place.path, reverse=True)
        begun: set[Step] = set()
        order: list[Step] = []
        first_gone = [place for place in gone if place in early]
        every: list[Step] = [*first_gone, *self.arrived, *gone]
        for first in paced(every):
            if first in begun:
                continue
            begun.add(first)
            stack = [(first, self._needed(first))]
            while stack:
                step, needed = stack[-1]
                following = next((other for other in needed if other not in begun), None)
                if following is None:
                    stack.pop()
                    order.append(step)
                else:
                    begun.add(following)
                    stack.append((following, self._needed(following)))
        return order

    def _arrive(self, change: Change) -> None:
        self.arrived[change.path] = change
        self._reached.update((change.path, *_above(change.path)))

    def _take(self, place: Place, step: Step) -> None:
        if place not in self._takers:
            self._left.setdefault(place.path, []).append(place)
            for above in _above(place.path):
                self._beneath.setdefault(Place(place.base, above), []).append(place)
        self._takers[place] = step

    def _needed(self, step: Step) -> Iterator[Step]:
        """The steps that come before one."""
        place = step if isinstance(step, Place) else self._origins.get(step)
        if isinstance(step, str):
            # The directory, and room in it.
            if above := nearest(step.rpartition("/")[0], self.arrived):
                yield above
            for path in (step, *_above(step)):
                yield from self._taking(self._left.get(path, ()))
        if place is not None:
            # It is called so from then on, until something above it moves.
            if place.base:
                yield place.base
            yield from self._taking(self._beneath.get(place, ()))

    def _taking(self, places: list[Place] | tuple[()]) -> Iterator[Step]:
        for place in places:
            if place in self._takers:
                yield self._takers[place]

    def _is_awaited(self, place: Place) -> bool:
        """Whether there are steps that come after what was at a place has been moved."""
        if place.path in self._reached:
            return True
        return any(Place(place.base, path) in self._takers for path in _above(place.path))

    def _awaits_itself(self, path: str) -> bool:
        seen: set[Step] = set()
        todo: list[Step] = [path]
        while todo:
            for step in self._needed(todo.pop()):
                if step == path or len(seen) > _MOST:
                    return True
                if step not in seen:
                    seen.add(step)
                    todo.append(step)
        return False


def nearest(path: str, paths: Container[str]) -> str:
    """A path, or the first directory above it, that is one of `paths`; else an empty one."""
    while path and path not in paths:
        path = path.rpartition("/")[0]
    return path


def _above(path: str) -> Iterator[str]:
    """The directories above a path, without the watched one."""
    while path := path.rpartition("/")[0]:
        yield path
