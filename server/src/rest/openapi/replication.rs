//! The shapes of documents about replicas: how equal they are, what is verified, and repairs on demand.

use serde_json::Value;

use super::document::reference;
use super::schema::{Named, flag, list, map, object, or_null, string, whole, words};

pub(super) fn schemas() -> Vec<Named> {
    [status(), scrub(), repairs()].concat()
}

/// The two fields of a time up to which replicas are equal; both are absent where it is not known.
fn time() -> [(&'static str, Value); 2] {
    [("inSyncAsOfMs", whole()), ("inSyncAgeMs", whole())]
}

fn whole_fields<const N: usize>(names: [&'static str; N]) -> Vec<(&'static str, Value)> {
    names.map(|name| (name, whole())).to_vec()
}

fn status() -> Vec<Named> {
    let moment = object(&[], &time());
    let cluster = object(&[("nodes", map(&moment))], &time());
    let table = object(
        &[
            ("keyspace", string()),
            ("table", string()),
            ("partitions", whole()),
            ("notInSyncHere", whole()),
            ("notComparedYet", whole()),
            ("purgeFloorMs", whole()),
            ("purgeBlockedBy", map(&whole())),
        ],
        &time(),
    );
    let partition = object(
        &[("partition", whole()), ("replicas", list(&string())), ("with", map(&moment)), ("purgeFloorMs", whole())],
        &[("notInSyncHere", string()), ("purgeBlockedBy", list(&string()))],
    );
    let peer = object(
        &whole_fields([
            "comparisons",
            "refused",
            "failures",
            "roundTrips",
            "leavesDiffering",
            "rowsSent",
            "rowsFetched",
            "rowBytes",
            "belowFloor",
        ]),
        &[("lastComparedAgeMs", whole()), ("lastError", string())],
    );
    let purge =
        object(&[("rounds", whole()), ("rows", whole()), ("blockedBy", map(&whole()))], &[("watermarkMs", whole())]);
    let replication = object(
        &[
            ("enabled", flag()),
            ("warnings", list(&string())),
            ("nowMs", whole()),
            ("cluster", cluster),
            ("tables", list(&table)),
            ("dirtyRanges", map(&whole())),
            ("peers", map(&peer)),
            ("passes", whole()),
            ("comparisons", whole()),
            ("failures", whole()),
            ("rangesCleared", whole()),
            ("purge", purge),
            ("scrub", reference("Scrub")),
        ],
        &[&time()[..], &[("partitions", list(&partition)), ("comparing", string()), ("lastError", string())]].concat(),
    );
    vec![("ReplicationStatus", replication)]
}

fn scrub() -> Vec<Named> {
    let scrub = object(
        &[
            ("enabled", flag()),
            ("state", words(&["RUNNING", "ON_DEMAND", "OFF"])),
            ("cycleMs", whole()),
            ("donePermille", whole()),
            ("rows", whole()),
            ("damaged", whole()),
            ("cycles", whole()),
        ],
        &[("lastCycleAgeMs", whole()), ("lastCycleDamaged", whole())],
    );
    let begun = object(&[("success", flag()), ("message", string()), ("scrub", reference("Scrub"))], &[]);
    vec![("Scrub", scrub), ("ScrubOrder", object(&[], &[])), ("ScrubBegun", begun)]
}

fn repairs() -> Vec<Named> {
    let pair = object(
        &[
            ("nodes", list(&string())),
            ("partitions", whole()),
            ("differing", whole()),
            ("leaves", whole()),
            ("rowsTo", map(&whole())),
            ("bytes", whole()),
        ],
        &[],
    );
    let not_compared = object(
        &[
            ("node", string()),
            ("with", string()),
            ("table", string()),
            ("partitions", list(&whole())),
            ("reason", string()),
        ],
        &[],
    );
    let states = words(&["PLANNED", "RUNNING", "COMPLETED", "PARTIAL", "CANCELLED", "FAILED"]);
    let always = [
        vec![
            ("repairId", string()),
            ("state", states),
            ("dryRun", flag()),
            ("tables", list(&string())),
            ("node", string()),
            ("pairs", list(&pair)),
        ],
        whole_fields(["createdAtMs", "resumed", "total", "done", "differing", "leaves", "rows", "bytes"]),
    ]
    .concat();
    let sometimes = [
        vec![("keyspace", string()), ("table", string()), ("notCompared", list(&not_compared)), ("error", string())],
        whole_fields(["startedAtMs", "lastProgressAtMs", "endedAtMs", "etaMs", "notComparedMore"]),
    ]
    .concat();
    let begun = [vec![("success", flag()), ("message", string())], always.clone()].concat();
    let order = object(&[], &[("keyspace", or_null(&string())), ("table", or_null(&string())), ("dryRun", flag())]);
    vec![
        ("Repair", object(&always, &sometimes)),
        ("RepairBegun", object(&begun, &sometimes)),
        ("RepairOrder", order),
        ("Repairs", object(&[("repairs", list(&reference("Repair"))), ("notAsked", list(&string()))], &[])),
    ]
}
