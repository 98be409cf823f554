"""Digests: the same for equal content, another for any edit that can change a result."""

import pytest

from lowrank_bench import digest

BASE = '"""Doc."""\nfrom lowrank_bench.helper_x import f\n\n\ndef g():\n    return f()  # why\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two throw-away modules of the package: `method_x` imports `helper_x`."""
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


def test_an_edit_of_the_module_or_of_what_it_imports_counts(package):
    before = of()
    (package / "method_x.py").write_text(BASE.replace("f()  #", "f() + 1  #"))
    edited = of()
    assert edited != before
    (package / "helper_x.py").write_text("def f():\n    return 2\n")
    assert of() not in (before, edited)


def test_methods_do_not_depend_on_each_other():
    lp, svd = (digest._closure([f"lowrank_bench.methods.{name}"]) for name in ("lp", "svd"))
    assert "lowrank_bench.methods.lp" not in svd
    assert "lowrank_bench.methods.svd" not in lp
    assert "lowrank_bench.linalg.ellipsoid.lewis" in lp - svd
