"""The download stage: splits of tasks, and files of networks."""

from dataclasses import dataclass
from typing import Any

from lowrank_bench.plan.cells import Source
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.store import Artifact, Store


@dataclass(frozen=True)
class DataStep:
    """The splits of a task, one `<split>.parquet` each.

    The manifest says which splits are missing and which are not the official files.

    Attributes
    ----------
    check
        Whether to refuse files that are not the official ones, unless `hub.unofficial` accepts
        them. Later stages need not: the download stage has checked them.
    """

    source: Source
    check: bool = True

    def lookup(self, store: Store) -> Artifact | None:
        """Return the splits if all that are asked for are there.

        Raises
        ------
        LowRankError
            When a file is not the official one and `hub.unofficial` is false.
        """
        data = store.artifact("data", self.source.key)
        if data is None or not self._wanted() <= _held(data):
            return None
        if self.check:
            self._refuse_unofficial(data.manifest)
        return data

    def make(self, runner: Runner) -> None:
        """Fetch or generate the splits, including those that other experiments asked for.

        Raises
        ------
        LowRankError
            When the hub cannot be reached, the training split or a column is missing, or a file is
            not the official one and `hub.unofficial` is false.
        """
        from lowrank_bench.download.data import DataRequest, fetch_data

        store, source, wanted = runner.store, self.source, self._wanted()
        data = store.artifact("data", source.key)
        if data is not None:  # another experiment asked for other splits of the same source
            wanted |= _held(data)
            store.discard(data.folder, f"holds {', '.join(sorted(_held(data)))} only")
        checks = source.checks
        request = DataRequest(
            source.name, source.spec, checks["columns"], checks["train"], sorted(wanted)
        )
        facts: dict[str, Any] = {"source": dict(source.spec)}
        with store.new_folder("data", source.key, facts) as fresh:
            facts |= fetch_data(request, fresh)
            self._refuse_unofficial(facts)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"data {self.source.name}"

    def _wanted(self) -> set[str]:
        return set(self.source.checks["splits"])

    def _refuse_unofficial(self, manifest: dict[str, Any]) -> None:
        from lowrank_bench.download.data import check_data

        checks = self.source.checks
        check_data(self.source.name, manifest["splits"], checks["splits"], checks["unofficial"])


def _held(data: Artifact) -> set[str]:
    """Return the splits that a folder holds, or knows to be missing at the source."""
    return {*data.manifest["splits"], *data.manifest["missing"]}


@dataclass(frozen=True)
class NetworkStep:
    """The files of a network: configuration, weights and tokenizer, or one file alone."""

    source: Source

    def lookup(self, store: Store) -> Artifact | None:
        """Return the files.

        Raises
        ------
        LowRankError
            When a checksum is not the expected one.
        """
        network = store.artifact("network", self.source.key)
        if network is not None:
            self._check(network.manifest["sha256"])
        return network

    def make(self, runner: Runner) -> None:
        """Fetch the files.

        Raises
        ------
        LowRankError
            When the hub cannot be reached, a file is missing, or a checksum does not match.
        """
        from lowrank_bench.download.network import fetch_network

        spec = self.source.spec
        facts: dict[str, Any] = {}
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
