"""Methods outside the package: folders and entry points, their keys, and what is refused."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from lowrank_bench import low_rank
from lowrank_bench.cli import main
from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import (
    make_method,
    method_class,
    method_names,
    methods_for,
    plugins,
    register_folder,
    register_folders,
    registry,
)
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.store import digest

METHOD = '''"""A method for tests."""

from typing import ClassVar

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod


class Scaled(MatrixMethod):
    """Project the rows onto the leading right singular vectors, with a parameter of no effect."""

    name: ClassVar[str] = "NAME"
    title: ClassVar[str] = "An SVD elsewhere"
    source: ClassVar[str] = "tests"

    power: float = Field(1.0, ge=0, description="of no effect")

    def decompose(self, problem):
        from lowrank_bench.linalg.decomposition import Projection
        from lowrank_bench.linalg.gram import right_singular

        return Projection(problem.matrix, right_singular(problem.matrix)[1])
'''


ODD = METHOD.replace("NAME", "odd")
ABSTRACT = ODD.partition("    def decompose")[0]
UNTITLED = ODD.replace('    title: ClassVar[str] = "An SVD elsewhere"\n', "")
TWO = f'{ODD}\n\nclass Second(Scaled):\n    name: ClassVar[str] = "even"\n'


@pytest.fixture(autouse=True)
def no_plugins():
    """Forget the plug-ins of a test when it ends."""
    followed = set(digest._FOLLOWED)
    yield
    registry._REGISTERED.clear()
    registry._FOLDERS.clear()
    plugins.installed_plugins.cache_clear()
    digest._FOLLOWED.intersection_update(followed)
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("lowrank_plugins", "far")
    ]:
        del sys.modules[name]
    forget()


def forget():
    for cached in (digest._source, digest._read, digest.code_digest):
        cached.cache_clear()


def folder_of(place, *names, text=METHOD):
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / f"{name}.py").write_text(text.replace("NAME", name))
    return place


def code_of(name, target="embedding"):
    forget()
    return digest.code_digest(*make_method(name).sources(target))


def test_a_method_of_a_folder_is_like_one_of_ours(tmp_path):
    place = folder_of(tmp_path / "mine", "elsewhere")
    register_folder(place)
    register_folder(str(place))  # once more changes nothing
    assert "elsewhere" in method_names()
    assert "elsewhere" in methods_for("embedding")
    assert make_method("elsewhere", power=2).label() == "elsewhere (power=2)"
    a = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    typed = low_rank(a, 3, method_class("elsewhere")())
    torch.testing.assert_close(typed.dense(), low_rank(a, 3, "svd").dense())
    assert torch.equal(typed.dense(), low_rank(a, 3, "elsewhere").dense())
    with pytest.raises(LowRankError, match=r"unknown method 'elsewere'; did you mean 'elsewhere'"):
        make_method("elsewere")
    with pytest.raises(LowRankError, match=r"method 'elsewhere': power = -1 is not valid"):
        make_method("elsewhere", power=-1)


def test_an_edit_of_a_plugin_changes_its_key_and_no_other(tmp_path):
    place = folder_of(tmp_path / "mine", "one", "two")
    (place / "_shared.py").write_text("def f():\n    return 1\n")
    with (place / "two.py").open("a") as stream:
        stream.write("\n\ndef late():\n    from lowrank_plugins._shared import f\n    return f()\n")
    register_folder(place)
    before = {name: code_of(name) for name in ("one", "two", "svd", "lp")}
    (place / "one.py").write_text((place / "one.py").read_text() + "\n# a comment\n")
    assert {name: code_of(name) for name in before} == before
    (place / "one.py").write_text((place / "one.py").read_text() + "\nEDITED = 1\n")
    edited = {name: code_of(name) for name in before}
    assert [name for name in before if edited[name] != before[name]] == ["one"]
    (place / "_shared.py").write_text("def f():\n    return 2\n")
    again = {name: code_of(name) for name in before}
    assert [name for name in before if again[name] != edited[name]] == ["two"]


def test_a_plugin_rests_on_the_modules_of_the_package_that_it_imports(tmp_path):
    register_folder(folder_of(tmp_path / "mine", "elsewhere"))
    modules = digest.closure(make_method("elsewhere").sources("embedding"))
    assert {"lowrank_plugins.elsewhere", "lowrank_bench.linalg.gram"} <= modules
    assert not any("network" in module for module in modules)


def test_the_key_does_not_depend_on_where_the_folder_is(tmp_path):
    codes = []
    for place in ("here", "there"):
        folder = folder_of(tmp_path / place, "elsewhere")
        code = (
            "from lowrank_bench.methods import make_method, register_folder\n"
            "from lowrank_bench.store.digest import code_digest\n"
            f"register_folder({str(folder)!r})\n"
            "print(code_digest(*make_method('elsewhere').sources('embedding')))"
        )
        words = [sys.executable, "-c", code]
        codes.append(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert codes[0] == codes[1] != ""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds no \*\.py file; a method is one such file"),
        ({"svd.py": METHOD}, r"svd\.py: the package has a method 'svd' already"),
        ({"other.py": METHOD}, r"other\.py defines no Method subclass with name = 'other'"),
        ({"my-svd.py": METHOD}, "'my-svd' is not a Python name"),
        ({"odd.py": "import nothing_x\n"}, r"method 'odd' of .*ModuleNotFoundError: No module"),
        ({"odd.py": "def f(:\n"}, r"method 'odd' of .*SyntaxError"),
        ({"odd.py": ABSTRACT}, r"odd\.py: Scaled does not define decompose"),
        ({"odd.py": UNTITLED}, r"odd\.py: Scaled does not define title"),
        ({"odd.py": TWO}, r"odd\.py defines a second method, 'even'; give each method a file"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, files, message):
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    before = method_names()
    with pytest.raises(LowRankError, match=message) as caught:
        register_folder(tmp_path / "mine")
    assert "\n" not in str(caught.value)
    assert method_names() == before


def test_a_missing_folder_and_a_name_that_is_taken_are_refused(tmp_path):
    with pytest.raises(LowRankError, match=r"plug-in folder .*nowhere does not exist"):
        register_folders([tmp_path / "nowhere"])
    register_folder(folder_of(tmp_path / "one", "elsewhere"))
    with pytest.raises(LowRankError, match=r"one/elsewhere\.py defines a method 'elsewhere'"):
        register_folder(folder_of(tmp_path / "two", "elsewhere"))


def test_a_shared_file_of_two_folders_and_a_file_in_place_of_a_folder_are_refused(tmp_path):
    one, two = folder_of(tmp_path / "one", "elsewhere"), folder_of(tmp_path / "two", "farther")
    for place in (one, two):
        (place / "_shared.py").write_text("")
    register_folder(one)
    with pytest.raises(LowRankError, match=r"two/_shared\.py: .*one holds a file of this name"):
        register_folder(two)
    with pytest.raises(LowRankError, match=r"elsewhere\.py is a file; name the folder"):
        register_folder(one / "elsewhere.py")


def test_a_folder_may_lie_in_the_home_of_the_user(tmp_path, monkeypatch):
    folder_of(tmp_path / "mine", "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    register_folder("~/mine")
    assert "elsewhere" in method_names()


def installed(monkeypatch, tmp_path, *points):
    """Make entry points look installed; their modules are in the package `far`."""
    package = folder_of(tmp_path / "site" / "far", "elsewhere", "svd")
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("def f():\n    return 1\n")
    with (package / "elsewhere.py").open("a") as stream:
        stream.write("\n\ndef late():\n    from .helper import f\n    return f()\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    entries = [EntryPoint(*point, "lowrank_bench.methods") for point in points]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    plugins.installed_plugins.cache_clear()
    return package


def test_an_entry_point_is_a_method(tmp_path, monkeypatch):
    package = installed(monkeypatch, tmp_path, ("elsewhere", "far.elsewhere"))
    assert "elsewhere" in method_names()
    assert {"far.elsewhere", "far.helper"} <= digest.closure(
        make_method("elsewhere").sources("embedding")
    )
    before = {name: code_of(name) for name in ("elsewhere", "svd")}
    (package / "helper.py").write_text("def f():\n    return 2\n")
    assert code_of("elsewhere") != before["elsewhere"]
    assert code_of("svd") == before["svd"]


def test_an_entry_point_whose_name_is_taken_is_refused(tmp_path, monkeypatch):
    installed(monkeypatch, tmp_path, ("svd", "far.svd"))
    with pytest.raises(LowRankError, match=r"entry point svd = 'far\.svd': the package has"):
        method_names()


def test_a_configuration_names_the_folder(tmp_path, conf):
    place = folder_of(tmp_path / "mine", "elsewhere")
    entry = "# @package method.elsewhere\nname: elsewhere\ngrid: {power: [1.0, 2.0]}\n"
    (place / "conf" / "method").mkdir(parents=True)
    (place / "conf" / "method" / "elsewhere.yaml").write_text(entry)
    words = [f"plugins=[{place}]", "method=[svd,elsewhere]"]
    plan = make_plan(load_config(conf, words))
    labels = {spec.label for job in plan.evaluate for spec in job.specs}
    assert labels == {"svd", "elsewhere (power=1)", "elsewhere (power=2)"}
    experiment = conf / "experiment" / "quickstart.yaml"
    experiment.write_text(experiment.read_text() + f"\nplugins: [{place}]\n")
    assert load_config(conf, words[1:]).method["elsewhere"].grid == {"power": [1.0, 2.0]}
    inline = "+method.inline={name: elsewhere, params: {power: 3.0}}"
    plan = make_plan(load_config(conf, [words[0], inline]))
    labels = {spec.label for job in plan.evaluate for spec in job.specs}
    assert "elsewhere (power=3)" in labels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plugins=[nowhere_x]"], "plugins names the folder 'nowhere_x', which does not exist"),
        (["plugins=3"], "plugins = 3 in the override 'plugins=3' is not valid"),
        (["plugins=[.]"], r"holds no \*\.py file"),
    ],
)
def test_a_configuration_that_names_a_wrong_folder_is_refused(
    tmp_path, conf, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LowRankError, match=message):
        make_plan(load_config(conf, words))


def test_a_wrong_key_in_the_file_of_a_plugin_is_blamed_on_that_file(tmp_path, conf):
    place = folder_of(tmp_path / "mine", "elsewhere")
    (place / "conf" / "method").mkdir(parents=True)
    entry = "# @package method.elsewhere\nname: elsewhere\ngird: {}\n"
    (place / "conf" / "method" / "elsewhere.yaml").write_text(entry)
    with pytest.raises(
        LowRankError, match=r"mine/conf/method/elsewhere\.yaml; did you mean 'grid'"
    ):
        load_config(conf, [f"plugins=[{place}]", "method=[elsewhere]"])


def test_the_command_line_takes_a_folder_of_methods(tmp_path, capsys):
    place = folder_of(tmp_path / "mine", "elsewhere")
    assert main(["methods", "--methods-from", str(place)]) == 0
    text = capsys.readouterr().out
    assert "elsewhere: An SVD elsewhere" in text
    assert f"defined in: {place / 'elsewhere.py'}" in text
    words = ["compress", str(tmp_path), str(tmp_path / "out"), "--compression", "0.5"]
    assert main([*words, "--methods-from", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert (
        main([*words, "--methods-from", str(place), "--method", "elsewhere", "--set", "power=-1"])
        == 2
    )
    assert "method 'elsewhere': power = -1 is not valid" in capsys.readouterr().err
