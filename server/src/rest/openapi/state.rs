//! The shapes of documents about a node, its cluster and its errors.

use serde_json::Value;

use super::document::reference;
use super::schema::{Named, anything, flag, integer, level, list, map, object, or_null, string, whole, words};

pub(super) fn schemas(codes: &[&str]) -> Vec<Named> {
    [errors(codes), health(), cluster(), hints(), stats(), settings()].concat()
}

fn errors(codes: &[&str]) -> Vec<Named> {
    let failure = object(&[("node", string()), ("code", string()), ("message", string())], &[]);
    let details = object(
        &[],
        &[
            ("mayTakeEffect", flag()),
            ("retryAfterMs", whole()),
            ("level", level()),
            ("required", whole()),
            ("alive", whole()),
            ("dataCenter", string()),
            ("acknowledgedBy", list(&string())),
            ("missing", whole()),
            ("timedOut", flag()),
            ("failures", list(&failure)),
            ("given", string()),
            ("limit", whole()),
            ("allowed", list(&string())),
            ("keyspace", string()),
            ("table", string()),
            ("aheadMs", whole()),
            ("floorMs", whole()),
            ("repairId", string()),
        ],
    );
    let body = [("code", words(codes)), ("message", string()), ("details", details)];
    let of_row: Vec<(&str, Value)> = body.clone().into_iter().chain([("status", whole())]).collect();
    let body = object(&body, &[]);
    vec![
        ("RowError", object(&of_row, &[])),
        ("ErrorBody", body),
        ("Error", object(&[("error", reference("ErrorBody"))], &[("explained", reference("Explained"))])),
    ]
}

fn health() -> Vec<Named> {
    let lost = [("withoutQuorum", whole()), ("withoutAnyReplica", whole())];
    let by_data_center = [("withoutLocalQuorum", map(&whole()))];
    let with = |fields: &[(&'static str, Value)]| fields.iter().cloned().chain(lost.clone()).collect::<Vec<_>>();
    let keyspace = with(&[("name", string()), ("replication", string()), ("partitions", whole())]);
    let one_more = object(&with(&[("name", string())]), &by_data_center);
    let one_more = object(&[("node", string()), ("keyspaces", list(&one_more)), ("noMajority", flag())], &[]);
    let control = object(&[("voters", list(&string())), ("required", whole()), ("alive", whole())], &[]);
    vec![
        ("Live", object(&[("status", words(&["ALIVE"]))], &[])),
        (
            "Ready",
            object(
                &[("status", words(&["READY", "NOT_READY"])), ("node", string()), ("missing", list(&string()))],
                &[("state", string())],
            ),
        ),
        (
            "Health",
            object(
                &[("status", words(&["SERVING", "NOT_SERVING"])), ("node", string()), ("warnings", list(&string()))],
                &[("state", string()), ("reasons", list(&string())), ("error", reference("ErrorBody"))],
            ),
        ),
        (
            "ClusterHealth",
            object(
                &[
                    ("status", words(&["HEALTHY", "DEGRADED", "AT_RISK", "UNAVAILABLE"])),
                    ("summary", string()),
                    ("epoch", whole()),
                    ("members", whole()),
                    ("down", list(&string())),
                    ("control", control),
                    ("keyspaces", list(&object(&keyspace, &by_data_center))),
                    ("ifOneMoreDied", list(&one_more)),
                ],
                &[],
            ),
        ),
    ]
}

fn cluster() -> Vec<Named> {
    let addresses = object(&[("http", string()), ("grpc", string()), ("peer", string()), ("gossip", string())], &[]);
    let always = [
        ("name", string()),
        ("id", whole()),
        ("status", words(&["ALIVE", "DOWN"])),
        ("state", words(&["JOINING", "WARMING", "READY", "LEAVING", "LEFT"])),
        ("dataCenter", string()),
        ("rack", string()),
        ("weight", whole()),
        ("addresses", addresses),
    ];
    let leaving = object(
        &[("by", words(&["DECOMMISSION", "REMOVE"])), ("partitions", whole())],
        &[("hints", whole()), ("marks", whole())],
    );
    let sometimes = [
        ("version", string()),
        ("loadPercent", serde_json::json!({"type": "number"})),
        ("requestsInFlight", whole()),
        ("requestsPerSecond", whole()),
        ("leaving", leaving),
        ("raft", words(&["LEADER", "VOTER", "LEARNER"])),
        ("hints", whole()),
        ("oldestHintAgeMs", whole()),
        ("clockOffsetMs", integer()),
        ("startedAtMs", whole()),
        ("drain", words(&["DRAINING", "DRAINED"])),
    ];
    let node = object(&always, &sometimes);
    let success = [("success", flag()), ("message", string())];
    let begun: Vec<_> = success.iter().cloned().chain(always.iter().cloned()).collect();
    let partition = object(
        &[
            ("partition", whole()),
            ("epoch", whole()),
            ("step", words(&["STABLE", "WRITE_BOTH", "READ_NEW"])),
            ("replicas", list(&string())),
        ],
        &[("pending", list(&string())), ("leaving", list(&string()))],
    );
    let placement = object(
        &[("id", whole()), ("replication", string()), ("keyspaces", list(&string())), ("partitions", list(&partition))],
        &[],
    );
    vec![
        ("Nodes", object(&[("nodes", list(&node))], &[])),
        ("LeavingBegun", object(&begun, &sometimes)),
        ("DecommissionOrder", object(&[], &[])),
        ("RemoveOrder", object(&[], &[("acceptLoss", flag())])),
        ("ReplaceOrder", object(&[("with", string())], &[("acceptLoss", flag())])),
        ("DrainOrder", object(&[], &[("undo", flag())])),
        ("DrainBegun", object(&[success.as_slice(), &[("name", string())]].concat(), &[])),
        ("Topology", object(&[("epoch", whole()), ("partitionCount", whole()), ("placements", list(&placement))], &[])),
    ]
}

fn hints() -> Vec<Named> {
    let node = object(
        &[
            ("hints", whole()),
            ("records", whole()),
            ("bytes", whole()),
            ("onlyCopies", whole()),
            ("dirtyRanges", whole()),
            ("everythingDirty", flag()),
            ("replayed", whole()),
            ("expired", whole()),
            ("damaged", whole()),
            ("dropped", map(&whole())),
            ("state", string()),
            ("perSecond", whole()),
            ("failures", whole()),
        ],
        &[("oldestAgeMs", whole()), ("etaMs", whole()), ("lastProgressAgeMs", whole()), ("lastError", string())],
    );
    let incoming = object(
        &[
            ("records", whole()),
            ("bytes", whole()),
            ("senders", whole()),
            ("taken", whole()),
            ("perSecond", whole()),
            ("rateBytes", whole()),
        ],
        &[("etaMs", whole())],
    );
    let counted = [
        "hinted",
        "notKept",
        "replayed",
        "replayedBytes",
        "batches",
        "failures",
        "expired",
        "damaged",
        "droppedTargetLeft",
        "droppedNotReplica",
        "droppedTable",
        "rerouted",
        "handedOver",
        "takenOver",
        "marksHandedOver",
    ];
    let counts: Vec<(&str, Value)> =
        counted.into_iter().map(|name| (name, whole())).chain([("marked", map(&whole()))]).collect();
    vec![
        (
            "Hints",
            object(
                &[
                    ("totalHints", whole()),
                    ("nodeHints", map(&whole())),
                    ("totalBytes", whole()),
                    ("dirtyRanges", map(&whole())),
                    ("nodes", map(&node)),
                    ("incoming", incoming),
                    ("counts", object(&counts, &[])),
                    ("handingOver", flag()),
                    ("paused", list(&string())),
                ],
                &[("oldestHintAgeMs", whole())],
            ),
        ),
        ("HintOrder", object(&[], &[("node", or_null(&string()))])),
        ("Ordered", object(&[("success", flag()), ("message", string())], &[("node", string())])),
    ]
}

fn stats() -> Vec<Named> {
    let repairs =
        object(&[("repaired", whole()), ("unneeded", whole()), ("failed", whole()), ("skipped", whole())], &[]);
    let reads = object(
        &[
            ("digestMismatches", whole()),
            ("staleReads", whole()),
            ("chanceReads", whole()),
            ("hedgesSent", whole()),
            ("hedgesHelped", whole()),
            ("blockingRepairs", repairs.clone()),
            ("chanceRepairs", repairs),
            ("partialPages", whole()),
        ],
        &[],
    );
    let stats = object(
        &[("lines", list(&string())), ("pendingHints", whole()), ("hints", reference("Hints")), ("reads", map(&reads))],
        &[],
    );
    vec![("Stats", stats)]
}

fn settings() -> Vec<Named> {
    let setting = object(
        &[("name", string()), ("value", anything()), ("source", string()), ("changeable", flag())],
        &[("afterRestart", anything())],
    );
    vec![
        ("Settings", object(&[("settings", list(&setting))], &[])),
        ("SettingsPatch", map(&anything())),
        (
            "SettingsChanged",
            object(
                &[
                    ("success", flag()),
                    ("message", string()),
                    ("changed", list(&string())),
                    ("needsRestart", list(&string())),
                ],
                &[],
            ),
        ),
        ("OpenApi", serde_json::json!({"type": "object"})),
    ]
}
