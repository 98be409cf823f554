"""The modules whose code decides a result, named in the room that the result comes from."""

from pathlib import Path

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.digest import code_digest

PACKAGE = Path(__file__).parents[1]


class Sources(tuple[str, ...]):
    """Full names of modules; with all that they import, they decide a result.

    A room declares its sources in its `__init__`, which imports no torch, so that keys can be
    computed without running the modules. A name that leads nowhere is refused at once.

    Raises
    ------
    LowRankError
        When a name is not that of a module of this package.

    Examples
    --------
    >>> Sources("lowrank_bench.linalg.gram") + Sources("lowrank_bench.errors")
    ('lowrank_bench.linalg.gram', 'lowrank_bench.errors')
    """

    __slots__ = ()

    def __new__(cls, *modules: str) -> "Sources":
        for name in modules:
            package, *parts = name.split(".")
            place = PACKAGE.joinpath(*parts)
            files = (place.with_suffix(".py"), place / "__init__.py")
            if package != PACKAGE.name or not parts or not any(file.is_file() for file in files):
                raise LowRankError(f"sources name {name}, which is not a module of this package")
        return super().__new__(cls, modules)

    def __add__(self, other: tuple[str, ...]) -> "Sources":  # type: ignore[override]  # of tuple
        return Sources(*self, *other)

    def digest(self) -> str:
        """Return the digest of the code of these modules and of all that they import."""
        return code_digest(*self)
