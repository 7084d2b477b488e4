"""What is believed of a repository: a case for every class of theupdateframework/tuf-conformance.

The suite itself is run on `vitconformer ota conformance-client` from outside; these stand beside it
and go through the same code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_runtime.ota.errors import SourceError, TrustError
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.http import HttpSource
from edge_runtime.ota.trust import Trust
from tests.autotrain_cloud.server import Server

TOP = ("root", "timestamp", "snapshot", "targets")
LATER = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=9)
PAST = LATER - timedelta(days=19)


class Publisher:
    """Signs anything, also what no repository of ours would write."""

    def __init__(self, folder: Path, *, consistent: bool = True) -> None:
        self.folder = folder / "repo"
        (self.folder / "metadata").mkdir(parents=True)
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in TOP}
        self.root = Root(expires=LATER, consistent_snapshot=consistent)
        for role in TOP:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.snapshot, self.timestamp = Snapshot(expires=LATER), Timestamp(expires=LATER)
        self.targets: dict[str, Targets] = {"targets": Targets(expires=LATER)}
        self.write("root", self.root)
        self.trusted_root = (self.folder / "metadata" / "1.root.json").read_bytes()
        self.publish()
        self.server = Server(self.folder)

    def delegate(self, delegator: str, role: DelegatedRole) -> Targets:
        """A role with a key of its own, below another."""
        above = self.targets[delegator]
        if above.delegations is None:
            above.delegations = Delegations({}, {})
        assert above.delegations.roles is not None
        above.delegations.roles[role.name] = role
        signers = self.signers.setdefault(role.name, [CryptoSigner.generate_ed25519()])
        for signer in signers:
            above.add_key(signer.public_key, role.name)
        return self.targets.setdefault(role.name, Targets(expires=LATER))

    def add(self, role: str, path: str, content: bytes = b"model") -> None:
        self.targets[role].targets[path] = TargetFile.from_data(path, content, ["sha256"])

    def publish(self, *, hashes: bool = False) -> None:
        for name, signed in self.targets.items():
            data = self.write(name, signed)
            kept = {"sha256": TargetFile.from_data("x", data).hashes["sha256"]} if hashes else None
            self.snapshot.meta[f"{name}.json"] = MetaFile(signed.version, hashes=kept)
        self.write("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.write("timestamp", self.timestamp)

    def bump(self) -> None:
        """The next versions of everything but the root."""
        for signed in (*self.targets.values(), self.snapshot, self.timestamp):
            signed.version += 1
        self.publish()

    def next_root(self, *also: CryptoSigner) -> None:
        self.root.version += 1
        self.write("root", self.root, *also)

    def write(self, role: str, signed: Any, *also: CryptoSigner) -> bytes:
        metadata = Metadata(signed)
        for signer in (*self.signers[role], *also):
            metadata.sign(signer, append=True)
        return self.put(role, signed.version, metadata.to_bytes())

    def put(self, role: str, version: int, data: bytes) -> bytes:
        from urllib.parse import quote

        name = quote(role, "")
        plain = role == "timestamp" or (role != "root" and not self.root.consistent_snapshot)
        file = f"{name}.json" if plain else f"{version}.{name}.json"
        # A static server unquotes what it is asked for; ours serves names as they are asked.
        (self.folder / "metadata" / file).write_bytes(data)
        return data


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(tmp_path)
    with made.server:
        yield made


def believes(publisher: Publisher, path: str | None = None, name: str = "device") -> Any:
    fs = RealFs(publisher.folder.parent / name)
    return Trust(fs, HttpSource(publisher.server.url), root=publisher.trusted_root).target(path)


def refuses(publisher: Publisher, attack: str, path: str | None = None) -> None:
    with pytest.raises(TrustError) as error:
        believes(publisher, path)
    assert error.value.attack == attack, error.value


# -- expiry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [*TOP, "family"])
def test_what_has_expired_is_not_believed_and_its_successor_is(
    publisher: Publisher, role: str
) -> None:
    publisher.delegate("targets", DelegatedRole("family", [], 1, False, paths=["m/*"]))
    publisher.bump()
    signed = {
        "root": publisher.root, "timestamp": publisher.timestamp, "snapshot": publisher.snapshot,
        **publisher.targets,
    }[role]  # fmt: skip
    signed.expires = PAST
    publisher.next_root()
    publisher.bump()
    refuses(publisher, "freeze", "m/x")
    signed.expires = LATER
    publisher.next_root()
    publisher.bump()
    assert believes(publisher, "m/x") is None


def test_an_expired_root_on_the_way_is_no_hindrance(publisher: Publisher) -> None:
    publisher.root.expires = PAST
    publisher.next_root()
    publisher.root.expires = LATER
    publisher.next_root()
    believes(publisher)


def test_metadata_that_expired_here_still_guards_against_older_ones(publisher: Publisher) -> None:
    publisher.bump()
    believes(publisher)
    for signed in (publisher.timestamp, publisher.snapshot):
        signed.version = 1
    publisher.publish()
    refuses(publisher, "rollback")


# -- rollback and fast-forward ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_older_version_is_refused_also_in_what_the_snapshot_says(
    publisher: Publisher, role: str
) -> None:
    publisher.bump()
    believes(publisher)
    if role == "timestamp":
        publisher.timestamp.version = 1
    else:
        publisher.timestamp.version += 1
        if role == "targets":
            publisher.snapshot.version += 1
            publisher.targets["targets"].version = 1
        else:
            publisher.snapshot.version = 1
    publisher.publish()
    refuses(publisher, "rollback")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_after_a_leap_in_versions_new_keys_bring_a_device_back(
    publisher: Publisher, role: str
) -> None:
    """The thief of a key signs version 2^31; the operator replaces keys and starts low again."""
    signed = {"timestamp": publisher.timestamp, "snapshot": publisher.snapshot,
              "targets": publisher.targets["targets"]}[role]  # fmt: skip
    signed.version = 1 << 31
    publisher.timestamp.version = max(publisher.timestamp.version, 2)
    publisher.snapshot.version = max(publisher.snapshot.version, 2)
    publisher.publish()
    believes(publisher)
    signed.version = 3
    for one in ("timestamp", "snapshot"):  # keys of both, as the specification says (5.3.11)
        old = publisher.signers[one][0].public_key.keyid
        publisher.signers[one] = [CryptoSigner.generate_ed25519()]
        publisher.root.revoke_key(old, one)
        publisher.root.add_key(publisher.signers[one][0].public_key, one)
    publisher.timestamp.version = publisher.snapshot.version = 3
    publisher.next_root()
    publisher.publish()
    believes(publisher)


# -- keys and thresholds ---------------------------------------------------------------------------


def test_a_threshold_counts_keys_and_not_signatures(publisher: Publisher) -> None:
    second = CryptoSigner.generate_ed25519()
    publisher.root.add_key(second.public_key, "timestamp")
    publisher.root.roles["timestamp"].threshold = 2
    publisher.next_root()
    publisher.bump()
    refuses(publisher, "key compromise")
    # One key's signature twice, under a second id of the same key.
    path = publisher.folder / "metadata" / "timestamp.json"
    fields = json.loads(path.read_text())
    twin = dict(fields["signatures"][0])
    for keyid in (twin["keyid"], second.public_key.keyid, "0" * 64):
        twin["keyid"] = keyid
        path.write_text(json.dumps({**fields, "signatures": [*fields["signatures"], twin]}))
        with pytest.raises(TrustError):
            believes(publisher)
    publisher.signers["timestamp"].append(second)
    publisher.bump()
    believes(publisher)


def test_one_key_under_two_ids_is_one_key(publisher: Publisher) -> None:
    """Metadata that lists it twice is no metadata, or counts it once: never two."""
    path = publisher.folder / "metadata"
    fields = json.loads((path / "1.root.json").read_text())["signed"]
    (keyid,) = fields["roles"]["timestamp"]["keyids"]
    fields["roles"]["timestamp"] = {"keyids": [keyid, keyid], "threshold": 2}
    fields["version"] = 2
    try:
        signed = Root.from_dict(fields)
    except ValueError:
        return  # refused as soon as it is read
    publisher.root = signed
    publisher.write("root", signed)
    publisher.bump()
    refuses(publisher, "key compromise")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_what_another_key_signed_is_refused(publisher: Publisher, role: str) -> None:
    thief = CryptoSigner.generate_ed25519()
    publisher.signers[role] = [thief]
    if role == "root":
        publisher.next_root()
    else:
        publisher.bump()
    refuses(publisher, "key compromise")


def test_roots_are_followed_one_by_one_and_by_old_and_new_keys_both(publisher: Publisher) -> None:
    for _ in range(5):
        old, new = publisher.signers["root"][0], CryptoSigner.generate_ed25519()
        publisher.root.revoke_key(old.public_key.keyid, "root")
        publisher.root.add_key(new.public_key, "root")
        publisher.signers["root"] = [new]
        publisher.next_root(old)
    believes(publisher)
    publisher.signers["root"] = [CryptoSigner.generate_ed25519()]
    publisher.root.add_key(publisher.signers["root"][0].public_key, "root")
    publisher.next_root()  # the new key alone
    refuses(publisher, "key compromise")


def test_a_root_with_another_number_than_asked_for_is_refused(publisher: Publisher) -> None:
    for version in (1, 3):
        publisher.root.version = version
        data = Metadata(publisher.root)
        data.sign(publisher.signers["root"][0])
        publisher.put("root", 2, data.to_bytes())
        refuses(publisher, "rollback")


@pytest.mark.parametrize(
    ("keytype", "scheme"), [("lattice", "dilithium-9"), ("ed25519", "made-up"), ("rsa", "md5")]
)
def test_a_root_with_an_algorithm_that_is_not_known_is_refused_and_the_old_one_stays(
    publisher: Publisher, keytype: str, scheme: str
) -> None:
    believes(publisher)
    fields = json.loads(publisher.trusted_root)["signed"]
    fields["keys"]["f" * 64] = {
        "keytype": keytype, "scheme": scheme, "keyval": {"public": "00" * 32},
    }  # fmt: skip
    fields["roles"]["timestamp"]["keyids"].append("f" * 64)
    fields["version"] = 2
    signature = publisher.signers["root"][0].sign(encode_canonical(fields).encode())
    data = json.dumps({"signed": fields, "signatures": [signature.to_dict()]}).encode()
    publisher.put("root", 2, data)
    refuses(publisher, "arbitrary software")
    publisher.next_root()  # in its place
    publisher.bump()
    believes(publisher)


# -- snapshots -------------------------------------------------------------------------------------


def test_a_repository_without_consistent_snapshots_is_believed_as_well(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, consistent=False)
    with publisher.server:
        publisher.add("targets", "model")
        publisher.bump()
        assert believes(publisher, "model").length == 5
        publisher.timestamp.version = 1
        publisher.publish()
        refuses(publisher, "rollback")


def test_metadata_of_another_digest_than_the_snapshot_says_is_refused(publisher: Publisher) -> None:
    for signed in (publisher.snapshot, publisher.timestamp, publisher.targets["targets"]):
        signed.version += 1
    publisher.publish(hashes=True)
    believes(publisher)
    publisher.targets["targets"].version += 1
    publisher.snapshot.version += 1
    publisher.timestamp.version += 1
    publisher.publish(hashes=True)
    publisher.targets["targets"].expires = LATER + timedelta(days=1)
    publisher.write("targets", publisher.targets["targets"])  # signed, and not what was listed
    refuses(publisher, "mix-and-match")


def test_a_role_that_left_the_snapshot_is_refused(publisher: Publisher) -> None:
    publisher.delegate("targets", DelegatedRole("family", [], 1, False, paths=["m/*"]))
    publisher.bump()
    believes(publisher)
    del publisher.snapshot.meta["family.json"]
    for signed in (publisher.snapshot, publisher.timestamp):
        signed.version += 1
    publisher.write("snapshot", publisher.snapshot)
    publisher.timestamp.snapshot_meta = MetaFile(publisher.snapshot.version)
    publisher.write("timestamp", publisher.timestamp)
    with pytest.raises(TrustError):
        believes(publisher)


# -- delegations -----------------------------------------------------------------------------------


def graph(publisher: Publisher, edges: Mapping[str, list[tuple[str, bool]]]) -> None:
    """Roles below others, in order; True ends the search."""
    for above, below in edges.items():
        for name, terminating in below:
            publisher.delegate(above, DelegatedRole(name, [], 1, terminating, paths=["*"]))
    publisher.bump()


@pytest.mark.parametrize(
    ("edges", "holders", "found"),
    [
        ({"targets": [("a", False), ("b", False)]}, {"a": 1, "b": 2}, 1),
        ({"targets": [("a", False), ("b", False)]}, {"b": 2}, 2),
        ({"targets": [("a", True), ("b", False)]}, {"b": 2}, None),
        ({"targets": [("a", False), ("b", False)], "a": [("c", False)]}, {"b": 2, "c": 3}, 3),
        ({"targets": [("a", False), ("b", False)], "a": [("c", True)]}, {"b": 2}, None),
        ({"targets": [("a", False)], "a": [("b", False)], "b": [("a", False)]}, {"b": 2}, 2),
    ],
)
def test_delegations_are_searched_in_order_and_end_where_they_should(
    publisher: Publisher,
    edges: dict[str, list[tuple[str, bool]]],
    holders: dict[str, int],
    found: int | None,
) -> None:
    graph(publisher, edges)
    for role, size in holders.items():
        publisher.add(role, "model", b"x" * size)
    publisher.bump()
    target = believes(publisher, "model")
    assert (target and target.length) == found


def test_a_role_that_two_delegate_to_needs_the_keys_of_whoever_is_asked(
    publisher: Publisher,
) -> None:
    """A diamond: `d` below `a` with keys that did not sign it, and below `b` with those that did.

    What was believed by way of `b` must not be believed by way of `a` (TOB-SIGSTORE-14).
    """
    for name, path in (("a", "a/*"), ("b", "b/*")):
        publisher.delegate("targets", DelegatedRole(name, [], 1, True, paths=[path]))
    publisher.delegate("b", DelegatedRole("d", [], 1, True, paths=["b/*"]))
    right = publisher.signers.pop("d")
    publisher.delegate("a", DelegatedRole("d", [], 1, True, paths=["a/*"]))
    publisher.signers["d"] = right
    for path in ("a/model", "b/model"):
        publisher.add("d", path)
    publisher.bump()
    assert believes(publisher, "b/model").length == 5
    refuses(publisher, "key compromise", "a/model")
    assert believes(publisher, "b/model").length == 5
    with pytest.raises(TrustError):
        believes(publisher, "a/model", name="another")


def test_paths_outside_of_a_delegation_are_not_asked_there(publisher: Publisher) -> None:
    publisher.delegate("targets", DelegatedRole("family", [], 1, False, paths=["m/*"]))
    for path in ("m/x", "other", "m/deeper/x"):
        publisher.add("family", path)
    publisher.bump()
    assert believes(publisher, "m/x").length == 5
    assert believes(publisher, "other") is None and believes(publisher, "m/deeper/x") is None


@pytest.mark.parametrize("name", ["?", "#", "a/b", "../up", "ünïcode", "a b", "%2e", "1.root"])
def test_odd_names_of_roles_stay_names(publisher: Publisher, name: str) -> None:
    publisher.delegate("targets", DelegatedRole(name, [], 1, False, paths=["m/*"]))
    publisher.add(name, "m/x")
    publisher.bump()
    assert believes(publisher, "m/x").length == 5
    assert believes(publisher, "m/x").length == 5  # out of what is remembered
    assert not (publisher.folder.parent / "up.json").exists()
    outside = [path.name for path in (publisher.folder.parent / "device").iterdir()]
    assert set(outside) <= {"trust.0", "trust.1"}


def test_a_role_that_is_not_there_is_no_attack(publisher: Publisher) -> None:
    publisher.delegate("targets", DelegatedRole("family", [], 1, False, paths=["m/*"]))
    publisher.bump()
    for path in (publisher.folder / "metadata").glob("*.family.json"):
        path.unlink()
    believes(publisher)
    with pytest.raises(SourceError):
        believes(publisher, "m/x")
