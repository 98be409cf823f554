"""The download stage: splits of tasks, and files of networks."""

from dataclasses import dataclass
from pathlib import Path

from lowrank_bench.plan.cells import Source
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.store import Store


@dataclass(frozen=True)
class DataStep:
    """The splits of a task, one `<split>.parquet` each.

    The manifest says which splits are missing and which are not the official files.
    """

    source: Source

    def lookup(self, store: Store) -> Path | None:
        """Return the folder when it holds all splits that are asked for.

        Raises
        ------
        LowRankError
            When a file is not the official one and `hub.unofficial` is false.
        """
        folder = store.folder("data", self.source.key, deep=True)
        if folder is None:
            return None
        manifest = store.manifest(folder)
        if not self._wanted() <= {*manifest["splits"], *manifest["missing"]}:
            return None
        self._check(manifest)
        return folder

    def make(self, runner: Runner) -> None:
        """Fetch or generate the splits, those that other experiments asked for among them.

        Raises
        ------
        LowRankError
            When the hub cannot be reached, the training split or a column is missing, or a file is
            not the official one and `hub.unofficial` is false.
        """
        from lowrank_bench.download.data import DataRequest, fetch_data

        store, source, wanted = runner.store, self.source, self._wanted()
        folder = store.folder("data", source.key, deep=True)
        if folder is not None:
            manifest = store.manifest(folder)
            held = {*manifest["splits"], *manifest["missing"]}
            wanted |= held
            store.discard(folder, f"holds {', '.join(sorted(held))} only")
        checks = source.checks
        request = DataRequest(
            source.name, source.spec, checks["columns"], checks["train"], sorted(wanted)
        )
        facts: dict[str, object] = {"source": dict(source.spec)}
        with store.new_folder("data", source.key, facts) as fresh:
            facts |= fetch_data(request, fresh)
            self._check(facts)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"data {self.source.name}"

    def _wanted(self) -> set[str]:
        return set(self.source.checks["splits"])

    def _check(self, manifest: dict) -> None:
        from lowrank_bench.download.data import check_data

        checks = self.source.checks
        check_data(self.source.name, manifest["splits"], checks["splits"], checks["unofficial"])


@dataclass(frozen=True)
class NetworkStep:
    """The files of a network: configuration, weights and tokenizer, or one file alone."""

    source: Source

    def lookup(self, store: Store) -> Path | None:
        """Return the folder.

        Raises
        ------
        LowRankError
            When a checksum is not the expected one.
        """
        folder = store.folder("network", self.source.key, deep=True)
        if folder is not None:
            self._check(store.manifest(folder)["sha256"])
        return folder

    def make(self, runner: Runner) -> None:
        """Fetch the files.

        Raises
        ------
        LowRankError
            When the hub cannot be reached, a file is missing, or a checksum does not match.
        """
        from lowrank_bench.download.network import fetch_network

        spec = self.source.spec
        facts: dict[str, object] = {}
        with runner.store.new_folder("network", self.source.key, facts) as fresh:
            fetched = fetch_network(spec["repo"], spec["revision"], spec.get("file"), fresh)
            facts |= fetched
            self._check(fetched["sha256"])

    def title(self) -> str:
        """Return a short name for messages."""
        return f"network {self.source.name}"

    def _check(self, sha256: dict[str, str]) -> None:
        from lowrank_bench.download.network import check_network

        source = self.source
        check_network(source.name, source.spec["repo"], sha256, source.checks["sha256"])


def source_step(source: Source) -> DataStep | NetworkStep:
    """Return the step that provides a source."""
    return NetworkStep(source) if source.kind == "network" else DataStep(source)
