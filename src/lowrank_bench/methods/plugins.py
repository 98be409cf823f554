"""Methods outside the package: files of a folder, and entry points of installed distributions."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.digest import follow_package

# The package in memory that the files of all plug-in folders are modules of. Its name, unlike that
# of a folder, is the same on every machine, and so are the keys of results.
PACKAGE = "lowrank_plugins"
GROUP = "lowrank_bench.methods"  # of entry points


@dataclass(frozen=True)
class Plugin:
    """Where a method outside the package is defined.

    Attributes
    ----------
    name
        Its name as a method.
    module
        The module to import.
    origin
        What messages call the place: a file, or an entry point.
    """

    name: str
    module: str
    origin: str

    def load(self) -> ModuleType:
        """Import the module and let digests follow its package.

        Raises
        ------
        LowRankError
            When it cannot be imported.
        """
        try:
            module = import_module(self.module)
        except Exception as error:  # a plug-in can raise anything
            fault = " ".join(f"{type(error).__name__}: {error}".split())
            raise LowRankError(f"method {self.name!r} of {self.origin}: {fault}") from None
        follow_package(self.module.partition(".")[0])
        return module


def plugins_in(folder: Path, others: Collection[Path] = ()) -> list[Plugin]:
    """Return a plug-in for every `*.py` file of a folder whose name has no leading underscore.

    Files with a leading underscore are for what several methods share; a method imports them from
    the package `lowrank_plugins`, as in `from lowrank_plugins._shared import helper`.

    Parameters
    ----------
    folder
        The folder.
    others
        The plug-in folders registered before. A file of the same name in one of them would be
        imported in place of this folder's.

    Raises
    ------
    LowRankError
        When the folder does not exist or holds no such file, a name is not a Python name, or a
        shared file has the name of one in another folder.
    """
    if folder.is_file():
        raise LowRankError(f"plug-in folder {folder} is a file; name the folder that holds it")
    if not folder.is_dir():
        raise LowRankError(f"plug-in folder {folder} does not exist; correct the path")
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
    if not files:
        raise LowRankError(f"plug-in folder {folder} holds no *.py file; a method is one such file")
    for file in files:
        if not file.stem.isidentifier():
            raise LowRankError(f"{file} cannot be imported: {file.stem!r} is not a Python name")
    for shared in sorted(folder.glob("_*.py")):
        for other in others:
            if (other / shared.name).is_file():
                raise LowRankError(
                    f"{shared}: {other} holds a file of this name too; rename one of them"
                )
    return [Plugin(file.stem, f"{PACKAGE}.{file.stem}", str(file)) for file in files]


@contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Make the files of a folder modules of `lowrank_plugins`; undo it when the block fails."""
    package = sys.modules.get(PACKAGE) or _package()
    before = list(package.__path__)
    package.__path__ = [*before, str(folder)]
    invalidate_caches()  # the folder may be younger than what the import system remembers
    follow_package(PACKAGE)
    try:
        yield
    except BaseException:
        package.__path__ = before
        for file in folder.glob("*.py"):
            sys.modules.pop(f"{PACKAGE}.{file.stem}", None)
        raise


def _package() -> ModuleType:
    package = ModuleType(PACKAGE, "Methods of plug-in folders.")
    package.__spec__ = ModuleSpec(PACKAGE, None, is_package=True)
    package.__path__ = []
    sys.modules[PACKAGE] = package
    return package


@cache
def installed_plugins() -> tuple[Plugin, ...]:
    """Return the entry points of installed distributions, `name = "package.module"` each."""
    return tuple(_installed())


def _installed() -> Iterator[Plugin]:
    for entry in entry_points(group=GROUP):
        origin = f"entry point {entry.name} = {entry.value!r}"
        if entry.dist is not None:
            origin += f" of {entry.dist.name}"
        yield Plugin(entry.name, entry.module, origin)
