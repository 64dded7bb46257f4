//! The shapes of documents about rows, keyspaces and tables.

use serde_json::Value;

use super::document::reference;
use super::schema::{
    Named, anything, duration, either, encoding, flag, level, list, map, object, or_null, string, whole, words,
};

pub(super) fn schemas() -> Vec<Named> {
    [writes(), reads(), batches(), explained(), schema()].concat()
}

fn writes() -> Vec<Named> {
    let options =
        [("encoding", encoding()), ("cl", string()), ("ttl", duration()), ("timestamp", whole()), ("explain", flag())];
    let named = [("sort", string()), ("keyspace", string()), ("table", string())];
    let put: Vec<(&str, Value)> = named.into_iter().chain(options.clone()).collect();
    vec![
        ("Put", object(&[("key", string()), ("value", string())], &put)),
        ("Row", object(&[("value", string())], &options)),
        ("Version", object(&[("timestamp", whole()), ("counter", whole()), ("node", string())], &[])),
        (
            "Written",
            object(
                &[
                    ("success", flag()),
                    ("message", string()),
                    ("key", string()),
                    ("level", level()),
                    ("version", reference("Version")),
                    ("acknowledgedBy", list(&string())),
                    ("hintedFor", list(&string())),
                ],
                &[
                    ("sort", string()),
                    ("encoding", encoding()),
                    ("markedFor", list(&string())),
                    ("supersededBy", reference("Version")),
                    ("explained", reference("Explained")),
                ],
            ),
        ),
    ]
}

fn reads() -> Vec<Named> {
    let extras = [("sort", string()), ("encoding", encoding()), ("expiresAt", whole())];
    let found: Vec<(&str, Value)> = extras
        .clone()
        .into_iter()
        .chain([("version", reference("Version")), ("explained", reference("Explained"))])
        .collect();
    vec![
        (
            "Read",
            object(
                &[
                    ("success", flag()),
                    ("found", flag()),
                    ("key", string()),
                    ("value", or_null(&string())),
                    ("level", level()),
                ],
                &found,
            ),
        ),
        ("ScannedRow", object(&[("key", string()), ("value", string()), ("version", reference("Version"))], &extras)),
        (
            "Ranged",
            object(
                &[("success", flag()), ("key", string()), ("count", whole()), ("rows", list(&reference("ScannedRow")))],
                &[("encoding", encoding()), ("next", string()), ("explained", reference("Explained"))],
            ),
        ),
        (
            "Scanned",
            object(
                &[
                    ("success", flag()),
                    ("prefix", string()),
                    ("count", whole()),
                    ("results", map(&string())),
                    ("rows", list(&reference("ScannedRow"))),
                ],
                &[
                    ("encoding", encoding()),
                    ("next", string()),
                    ("partial", list(&whole())),
                    ("explained", list(&reference("Explained"))),
                ],
            ),
        ),
    ]
}

fn batches() -> Vec<Named> {
    let named = [("sort", string()), ("encoding", encoding())];
    let of_row: Vec<(&str, Value)> = named.clone().into_iter().chain([("ttl", duration())]).collect();
    let row = object(&[("key", string()), ("value", string())], &of_row);
    let key = object(&[("key", string())], &named);
    let of_read = [("keyspace", string()), ("table", string()), ("cl", string()), ("explain", flag())];
    let of_write: Vec<(&str, Value)> = of_read.clone().into_iter().chain([("timestamp", whole())]).collect();
    let failed: Vec<(&str, Value)> = named.clone().into_iter().chain([("error", reference("RowError"))]).collect();
    let of_written = [
        ("version", reference("Version")),
        ("acknowledgedBy", list(&string())),
        ("hintedFor", list(&string())),
        ("markedFor", list(&string())),
        ("supersededBy", reference("Version")),
    ];
    let of_found =
        [("found", flag()), ("value", or_null(&string())), ("version", reference("Version")), ("expiresAt", whole())];
    let row_of = |done: &[(&'static str, Value)]| object(&[("key", string())], &[failed.as_slice(), done].concat());
    let answer = |row: &'static str| {
        let always = [("success", flag()), ("count", whole()), ("level", level()), ("results", list(&reference(row)))];
        object(&always, &[("explained", reference("Explained"))])
    };
    vec![
        ("BatchRows", object(&[("rows", list(&row))], &of_write)),
        ("BatchDeleteKeys", object(&[("keys", list(&key))], &of_write)),
        ("BatchGetKeys", object(&[("keys", list(&key))], &of_read)),
        ("RowWritten", row_of(&of_written)),
        ("RowRead", row_of(&of_found)),
        ("BatchWritten", answer("RowWritten")),
        ("BatchRead", answer("RowRead")),
    ]
}

fn explained() -> Vec<Named> {
    let always = [
        ("kind", words(&["read", "range", "scan", "write"])),
        ("keyspace", string()),
        ("table", string()),
        ("level", level()),
        ("coordinator", string()),
        ("dataCenter", string()),
        ("epoch", whole()),
        ("tookMs", whole()),
        ("messages", list(&anything())),
        ("rows", list(&anything())),
        ("hedged", list(&string())),
        ("byChance", list(&string())),
        ("hints", list(&object(&[("node", string()), ("kept", words(&["hint", "mark", "left"]))], &[]))),
    ];
    let slow = object(&[("thresholdMs", or_null(&whole())), ("requests", list(&reference("Explained")))], &[]);
    vec![("Explained", object(&always, &[("messagesLeftOut", whole()), ("error", string())])), ("SlowRequests", slow)]
}

fn schema() -> Vec<Named> {
    let simple = object(&[("strategy", words(&["simple"])), ("factor", whole())], &[]);
    let network = object(&[("strategy", words(&["network"])), ("dataCenters", map(&whole()))], &[]);
    let durability = either(&[words(&["sync"]), object(&[("interval", duration())], &[])]);
    let of_keyspace = [("replication", reference("Replication")), ("durability", reference("Durability"))];
    let of_table = [
        ("read_repair_chance", whole()),
        ("hedge", string()),
        ("grace", duration()),
        ("prefix_index", flag()),
        ("default_ttl", or_null(&duration())),
    ];
    vec![
        ("Replication", either(&[simple, network])),
        ("Durability", durability),
        ("KeyspaceOptions", object(&[], &of_keyspace)),
        ("Keyspace", object(&[("name", string()), ("tables", list(&string()))], &of_keyspace)),
        ("Keyspaces", object(&[("keyspaces", list(&reference("Keyspace")))], &[])),
        ("TableOptions", object(&[], &of_table)),
        ("Table", object(&[("keyspace", string()), ("name", string())], &of_table)),
        ("SchemaChanged", object(&[("success", flag()), ("message", string()), ("changed", flag())], &[])),
    ]
}
