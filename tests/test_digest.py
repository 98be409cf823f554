"""Digests: equal for equal content, different after any edit that can change a result."""

import pytest

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import NetworkMethod, make_method, method_class, method_names
from lowrank_bench.methods.base import NetworkPart
from lowrank_bench.store import digest

BASE = '"""Doc."""\nfrom lowrank_bench.helper_x import f\n\n\ndef g():\n    return f()  # why\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two temporary modules of the package: `method_x` imports `helper_x`."""
    import lowrank_bench

    monkeypatch.setattr(lowrank_bench, "__path__", [*lowrank_bench.__path__, str(tmp_path)])
    (tmp_path / "method_x.py").write_text(BASE)
    (tmp_path / "helper_x.py").write_text("def f():\n    return 1\n")
    yield tmp_path
    _forget()


def _forget():
    for cached in (digest._source, digest._read, digest.code_digest):
        cached.cache_clear()


def of():
    _forget()
    return digest.code_digest("lowrank_bench.method_x")


def test_canonical_json_ignores_the_order_of_keys():
    assert digest.digest({"a": 1, "b": [1.5]}) == digest.digest({"b": [1.5], "a": 1})
    assert digest.digest({"a": 1}) != digest.digest({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        digest.canonical(float("nan"))


def test_comments_docstrings_and_layout_do_not_count(package):
    before = of()
    (package / "method_x.py").write_text(BASE.replace("Doc.", "Other.").replace("# why", "# so"))
    assert of() == before


def test_edits_of_a_module_and_of_its_imports_count(package):
    before = of()
    (package / "method_x.py").write_text(BASE.replace("f()  #", "f() + 1  #"))
    edited = of()
    assert edited != before
    (package / "helper_x.py").write_text("def f():\n    return 2\n")
    assert of() not in (before, edited)


METHODS = "lowrank_bench.methods."
SHARED = {"base", "fields"}  # what methods derive from


def reached(name, target, **params):
    """Return the modules that decide a method's results on a target, without the package's name."""
    modules = digest.closure(make_method(name, **params).sources(target))
    return {module.removeprefix("lowrank_bench.") for module in modules}


@pytest.mark.parametrize("name", method_names())
def test_methods_do_not_depend_on_each_other(name):
    for target in method_class(name).targets:
        files = {m.removeprefix("methods.") for m in reached(name, target) if "methods." in m}
        assert files - SHARED == {name}


def test_a_method_rests_on_its_own_mathematics():
    lp, svd = (reached(name, "embedding") for name in ("lp", "svd"))
    assert "linalg.ellipsoid.lewis" in lp - svd


def test_the_whole_network_part_of_a_method_does_not_count_for_a_matrix():
    rooms = {module.partition(".")[0] for module in reached("svd", "embedding")}
    assert rooms == {"linalg", "methods", "problem"}
    for target in ("conv", "linear"):
        assert {"layerwise.approximators", "network.layers"} <= reached("svd", target)


def test_a_layerwise_approximator_counts_where_it_is_chosen():
    plain, lp = (reached("layerwise", "conv", approximator=name) for name in ("whitened", "lp"))
    assert {"methods.lp", "linalg.ellipsoid.lewis"} <= lp - plain


def test_a_misspelt_fact_is_refused_when_the_class_is_made():
    with pytest.raises(LowRankError, match=r"facts names 'count'; known: frequency, counts"):
        type("Odd", (NetworkMethod,), {"facts": ("count",)})


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        ("lowrank_bench.layerwise.aproximators", "compress_layerwise", "no module lowrank_bench"),
        ("lowrank_bench.layerwise.approximators", "compress_layers", "defines no function"),
    ],
)
def test_a_misspelt_part_of_a_method_is_refused_when_it_is_declared(module, function, message):
    with pytest.raises(LowRankError, match=message):
        NetworkPart(module, function)


def test_imports_only_for_type_checkers_do_not_count(package):
    guarded = "if TYPE_CHECKING:\n    from lowrank_bench.other_x import h\n"
    (package / "other_x.py").write_text("def h():\n    return 1\n")
    (package / "method_x.py").write_text(BASE + guarded)
    before = of()
    (package / "other_x.py").write_text("def h():\n    return 2\n")
    assert of() == before
    (package / "method_x.py").write_text(BASE + guarded.replace("if TYPE_CHECKING", "if True"))
    running = of()
    (package / "other_x.py").write_text("def h():\n    return 3\n")
    assert of() != running


def test_imports_inside_functions_count(package):
    lazy = "\n\ndef late():\n    from lowrank_bench.other_x import h\n    return h\n"
    (package / "other_x.py").write_text("def h():\n    return 1\n")
    (package / "method_x.py").write_text(BASE + lazy)
    before = of()
    (package / "other_x.py").write_text("def h():\n    return 2\n")
    assert of() != before


def test_imports_of_a_package_s_init_count(package):
    """`from package import name` runs the package's __init__, and what that imports."""
    (package / "rooms_x").mkdir()
    gathered = "from lowrank_bench.other_x import h\n"
    (package / "rooms_x/__init__.py").write_text(gathered)
    (package / "other_x.py").write_text("def h():\n    return 1\n")
    (package / "method_x.py").write_text("from lowrank_bench.rooms_x import h\n")
    before = of()
    (package / "other_x.py").write_text("def h():\n    return 2\n")
    assert of() != before


@pytest.mark.parametrize(
    "line",
    [
        "import lowrank_bench.nothing_x",
        "from lowrank_bench.nothing_x import f",
        "def g():\n    from lowrank_bench.nothing_x.there import f",
    ],
)
def test_a_module_that_does_not_exist_is_refused(package, line):
    (package / "method_x.py").write_text(line + "\n")
    with pytest.raises(LowRankError, match=r"no module lowrank_bench\.nothing_x"):
        of()


def test_a_misspelt_source_is_refused():
    _forget()
    with pytest.raises(LowRankError, match=r"lowrank_bench\.nothing\.there"):
        digest.code_digest("lowrank_bench.nothing.there")
