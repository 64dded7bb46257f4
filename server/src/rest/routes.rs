//! Every call there is over HTTP: its path, who answers it, and what is said of it. A new one is one more entry here.

mod batches;
mod errors;

use std::sync::Arc;

use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::openapi::Answer::{Json, JsonOrText, Text};
use super::openapi::{Answer, Kind, Query, Route, openapi, page};
use super::{cluster, config, data, hints, leaving, metrics, range, repair, replication, scan, schema, stats};
use crate::edge::{Code, Edge};
use crate::metrics::CONTENT_TYPE;

const TABLE: &str = "/api/v1/keyspaces/{keyspace}/tables/{table}";
const KEYSPACE: &str = "/api/v1/keyspaces/{keyspace}";
const ROW: &str = "/api/v1/keyspaces/{keyspace}/tables/{table}/rows/{key}";
const SORTED_ROW: &str = "/api/v1/keyspaces/{keyspace}/tables/{table}/rows/{key}/{sort}";
/// A key may hold slashes, encoded or not, so it is everything that follows; and it must not be empty.
const GET_AT: &[&str] = &["/api/v1/get/{*key}", "/api/v1/get/", "/api/v1/get"];
const RANGE_AT: &[&str] = &["/api/v1/range/{*key}", "/api/v1/range/", "/api/v1/range"];
const DELETE_AT: &[&str] = &["/api/v1/delete/{*key}", "/api/v1/delete/", "/api/v1/delete"];
const ROW_AT: &[&str] = &[
    "/api/v1/keyspaces/{keyspace}/tables/{table}/rows/{*row}",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/rows/",
    "/api/v1/keyspaces/{keyspace}/tables/{table}/rows",
];
/// Those of [`ROW_AT`] lead to rows with a sort key as well.
const FOUND_ALREADY: &[&str] = &[];

const CL: Query = query("cl", Kind::Level, "The consistency level, in any case; QUORUM if left out");
const EXPLAIN: Query = query("explain", Kind::Flag, "Whether an account of what was done is wanted");
const OF_TABLE: [Query; 2] = [
    query("keyspace", Kind::Text, "The keyspace; default if left out"),
    query("table", Kind::Text, "The table; kv if left out"),
];
const SORT: Query = query("sort", Kind::Text, "The sort key, if the row has one");
const TIMESTAMP: Query = query("timestamp", Kind::Whole, "Milliseconds since 1970, instead of the node's clock");

/// What may go wrong with a change of the schema.
const CHANGING: &[Code] = &[
    Code::InvalidSchema,
    Code::UnknownKeyspace,
    Code::UnknownTable,
    Code::AlreadyExists,
    Code::Conflict,
    Code::NoMajority,
    Code::ShuttingDown,
];

const fn query(name: &'static str, kind: Kind, says: &'static str) -> Query {
    Query { name, kind, says }
}

/// A call of which nothing further is said.
fn call(
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<Edge>>,
    name: &'static str,
    tag: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        method,
        path,
        at: None,
        handler,
        name,
        tag,
        summary,
        query: &[],
        body: None,
        answers: &[],
        errors: Vec::new(),
    }
}

impl Route {
    fn at(self, at: &'static [&'static str]) -> Self {
        Self { at: Some(at), ..self }
    }

    fn asks(self, query: &'static [Query]) -> Self {
        Self { query, ..self }
    }

    fn takes(self, schema: &'static str) -> Self {
        Self { body: Some((schema, false)), ..self }
    }

    fn may_take(self, schema: &'static str) -> Self {
        Self { body: Some((schema, true)), ..self }
    }

    fn answers(self, answers: &'static [(u16, Answer)]) -> Self {
        Self { answers, ..self }
    }

    /// With these errors too.
    fn fails(mut self, errors: &[Code]) -> Self {
        self.errors.extend_from_slice(errors);
        self
    }
}

/// All of them.
pub(super) fn table() -> Vec<Route> {
    [rows(), batches::batches(), keyspaces(), of_hints(), of_replicas(), of_the_cluster(), of_the_node(), documents()]
        .into_iter()
        .flatten()
        .collect()
}

fn rows() -> Vec<Route> {
    const TAG: &str = "Rows";
    const OF_GET: &[Query] = &[CL, OF_TABLE[0], OF_TABLE[1], SORT, EXPLAIN];
    const OF_DELETE: &[Query] = &[CL, OF_TABLE[0], OF_TABLE[1], SORT, TIMESTAMP, EXPLAIN];
    const OF_ROW: &[Query] = &[CL, EXPLAIN];
    const OF_ROW_DELETE: &[Query] = &[CL, TIMESTAMP, EXPLAIN];
    const OF_RANGE: &[Query] = &[
        query("from", Kind::Text, "Where the sort keys begin"),
        query("after", Kind::Text, "The same, without that row"),
        query("to", Kind::Text, "Where the sort keys end"),
        query("before", Kind::Text, "The same, without that row"),
        query("limit", Kind::Whole, "Rows of the answer at the most; 1,000 if left out"),
        query("page", Kind::Text, "The next of an answer to the same range: goes on behind it"),
        query("backward", Kind::Flag, "Whether in reverse order"),
        CL,
        OF_TABLE[0],
        OF_TABLE[1],
        EXPLAIN,
    ];
    const OF_SCAN: &[Query] = &[
        query("prefix", Kind::Text, "How the keys begin; all rows if left out"),
        query("limit", Kind::Whole, "Rows of the answer at the most; 1,000 if left out"),
        query("page", Kind::Text, "The next of an answer to the same scan: goes on behind it"),
        query("backward", Kind::Flag, "Whether in reverse order"),
        CL,
        OF_TABLE[0],
        OF_TABLE[1],
        EXPLAIN,
    ];
    const WRITTEN: &[(u16, Answer)] = &[(200, Json("Written"))];
    const READ: &[(u16, Answer)] = &[(200, Json("Read"))];
    vec![
        call("post", "/api/v1/put", post(data::put), "put", TAG, "Writes a row")
            .takes("Put")
            .answers(WRITTEN)
            .writes_a_row(),
        call("get", "/api/v1/get/{key}", get(data::get), "get", TAG, "Reads a row; one that is absent is no error")
            .at(GET_AT)
            .asks(OF_GET)
            .answers(READ)
            .reads_a_row(),
        call("delete", "/api/v1/delete/{key}", delete(data::delete), "delete", TAG, "Deletes a row")
            .at(DELETE_AT)
            .asks(OF_DELETE)
            .answers(WRITTEN)
            .writes_a_row(),
        call("get", "/api/v1/range/{key}", get(range::range), "range", TAG, "Lists the rows of a partition key")
            .at(RANGE_AT)
            .asks(OF_RANGE)
            .answers(&[(200, Json("Ranged"))])
            .lists_rows()
            .fails(&[Code::EmptyKey]),
        call("get", "/api/v1/scan", get(scan::scan), "scan", TAG, "Lists the rows whose keys begin alike")
            .asks(OF_SCAN)
            .answers(&[(200, Json("Scanned"))])
            .lists_rows()
            .fails(&[Code::NoPrefixIndex]),
        row("put", ROW, put(data::put_row), "putRow", "Writes a row of a table")
            .takes("Row")
            .asks(OF_ROW)
            .answers(WRITTEN)
            .writes_a_row(),
        row("get", ROW, get(data::get_row), "getRow", "Reads a row of a table")
            .asks(OF_ROW)
            .answers(READ)
            .reads_a_row(),
        row("delete", ROW, delete(data::delete_row), "deleteRow", "Deletes a row of a table")
            .asks(OF_ROW_DELETE)
            .answers(WRITTEN)
            .writes_a_row(),
        row("put", SORTED_ROW, put(data::put_row), "putSortedRow", "Writes a row with a sort key")
            .takes("Row")
            .asks(OF_ROW)
            .answers(WRITTEN)
            .writes_a_row(),
        row("get", SORTED_ROW, get(data::get_row), "getSortedRow", "Reads a row with a sort key")
            .asks(OF_ROW)
            .answers(READ)
            .reads_a_row(),
        row("delete", SORTED_ROW, delete(data::delete_row), "deleteSortedRow", "Deletes a row with a sort key")
            .asks(OF_ROW_DELETE)
            .answers(WRITTEN)
            .writes_a_row(),
    ]
}

/// A row as a resource.
fn row(
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<Edge>>,
    name: &'static str,
    summary: &'static str,
) -> Route {
    let at = if path == ROW { ROW_AT } else { FOUND_ALREADY };
    call(method, path, handler, name, "Rows", summary).at(at)
}

fn keyspaces() -> Vec<Route> {
    const TAG: &str = "Keyspaces and tables";
    const CREATED: &[(u16, Answer)] = &[(201, Json("SchemaChanged")), (200, Json("SchemaChanged"))];
    const CHANGED: &[(u16, Answer)] = &[(200, Json("SchemaChanged"))];
    let keyspace = |method, handler, name, summary| call(method, KEYSPACE, handler, name, TAG, summary);
    let table = |method, handler, name, summary| call(method, TABLE, handler, name, TAG, summary);
    vec![
        call("get", "/api/v1/keyspaces", get(schema::list), "listKeyspaces", TAG, "Lists the keyspaces")
            .answers(&[(200, Json("Keyspaces"))]),
        keyspace("put", put(schema::create_keyspace), "createKeyspace", "Creates a keyspace")
            .may_take("KeyspaceOptions")
            .answers(CREATED)
            .fails(CHANGING),
        keyspace("get", get(schema::get_keyspace), "getKeyspace", "Shows a keyspace")
            .answers(&[(200, Json("Keyspace"))])
            .fails(&[Code::UnknownKeyspace]),
        keyspace("patch", patch(schema::alter_keyspace), "alterKeyspace", "Changes what is named of a keyspace")
            .may_take("KeyspaceOptions")
            .answers(CHANGED)
            .fails(CHANGING),
        keyspace("delete", delete(schema::drop_keyspace), "dropKeyspace", "Drops a keyspace with everything in it")
            .answers(CHANGED)
            .fails(CHANGING),
        table("put", put(schema::create_table), "createTable", "Creates a table")
            .may_take("TableOptions")
            .answers(CREATED)
            .fails(CHANGING),
        table("get", get(schema::get_table), "getTable", "Shows a table")
            .answers(&[(200, Json("Table"))])
            .fails(&[Code::UnknownKeyspace, Code::UnknownTable]),
        table("patch", patch(schema::alter_table), "alterTable", "Changes what is named of a table")
            .may_take("TableOptions")
            .answers(CHANGED)
            .fails(CHANGING),
        table("delete", delete(schema::drop_table), "dropTable", "Drops a table with its rows")
            .answers(CHANGED)
            .fails(CHANGING),
    ]
}

fn of_hints() -> Vec<Route> {
    const TAG: &str = "Replication";
    const ORDERED: &[(u16, Answer)] = &[(200, Json("Ordered"))];
    const STEERING: &[Code] = &[Code::Conflict, Code::ShuttingDown];
    let order = |path, handler, name, summary| {
        call("post", path, handler, name, TAG, summary).may_take("HintOrder").answers(ORDERED).fails(STEERING)
    };
    let path = "/api/v1/replication/hints";
    vec![
        call("get", path, get(hints::hints), "hints", TAG, "What this node keeps for replicas that missed something")
            .answers(&[(200, Json("Hints"))]),
        order("/api/v1/replication/hints/replay", post(hints::replay), "replayHints", "Delivers hints now"),
        order("/api/v1/replication/hints/pause", post(hints::pause), "pauseHints", "Keeps hints and delivers none"),
        order("/api/v1/replication/hints/resume", post(hints::resume), "resumeHints", "Delivers hints again"),
    ]
}

fn of_replicas() -> Vec<Route> {
    const TAG: &str = "Replication";
    const STATUS: &[Query] = &[
        query("keyspace", Kind::Text, "The keyspace of the table"),
        query("table", Kind::Text, "The table whose partitions are told one by one; keyspace.table does as well"),
    ];
    const SCRUB: &str = "/api/v1/replication/scrub";
    const REPAIRS: &str = "/api/v1/replication/repair";
    const REPAIR: &str = "/api/v1/replication/repair/{id}";
    const UNKNOWN: &[Code] = &[Code::UnknownKeyspace, Code::UnknownTable];
    const BEGINNING: &[Code] =
        &[Code::UnknownKeyspace, Code::UnknownTable, Code::RepairUnderWay, Code::Overloaded, Code::ShuttingDown];
    let of = |method, path, handler, name, summary| call(method, path, handler, name, TAG, summary);
    vec![
        of("get", "/api/v1/replication/status", get(replication::status), "replication", "How equal the replicas are")
            .asks(STATUS)
            .answers(&[(200, Json("ReplicationStatus"))])
            .fails(UNKNOWN),
        of("get", SCRUB, get(replication::scrub), "scrub", "How far the verification of what is on disk has come")
            .answers(&[(200, Json("Scrub"))]),
        of("post", SCRUB, post(replication::scrub_now), "scrubNow", "Verifies everything on disk now")
            .may_take("ScrubOrder")
            .answers(&[(202, Json("ScrubBegun"))])
            .fails(&[Code::ShuttingDown]),
        of(
            "post",
            REPAIRS,
            post(repair::begin),
            "beginRepair",
            "Compares replicas now, and mends them unless told not to",
        )
        .may_take("RepairOrder")
        .answers(&[(202, Json("RepairBegun"))])
        .fails(BEGINNING),
        of("get", REPAIRS, get(repair::list), "repairs", "The repairs that the nodes run and remember")
            .answers(&[(200, Json("Repairs"))]),
        of("get", REPAIR, get(repair::show), "repair", "How a repair stands, or what came of it")
            .answers(&[(200, Json("Repair"))])
            .fails(&[Code::UnknownRepair]),
        of("delete", REPAIR, delete(repair::cancel), "cancelRepair", "Ends a repair; what was mended stays so")
            .answers(&[(200, Json("RepairBegun"))])
            .fails(&[Code::UnknownRepair]),
    ]
}

fn of_the_cluster() -> Vec<Route> {
    const TAG: &str = "Cluster";
    const LEAVING: &[Code] = &[Code::UnknownNode, Code::Conflict, Code::NoMajority, Code::ShuttingDown];
    const BEGUN: &[(u16, Answer)] = &[(202, Json("LeavingBegun"))];
    let shows = |path, handler, name, summary, answers| call("get", path, handler, name, TAG, summary).answers(answers);
    let orders = |path, handler, name, summary| call("post", path, handler, name, TAG, summary);
    vec![
        orders(
            "/api/v1/cluster/nodes/{name}/decommission",
            post(leaving::decommission),
            "decommissionNode",
            "Has a living node hand over what it has, and leave",
        )
        .may_take("DecommissionOrder")
        .answers(BEGUN)
        .fails(LEAVING),
        orders(
            "/api/v1/cluster/nodes/{name}/remove",
            post(leaving::remove),
            "removeNode",
            "Gives up a node that is gone for good: the others take its place",
        )
        .may_take("RemoveOrder")
        .answers(BEGUN)
        .fails(LEAVING),
        orders(
            "/api/v1/cluster/nodes/{name}/replace",
            post(leaving::replace),
            "replaceNode",
            "Gives up a node that is gone for good: another member takes its place",
        )
        .takes("ReplaceOrder")
        .answers(BEGUN)
        .fails(LEAVING),
        orders(
            "/api/v1/cluster/nodes/{name}/drain",
            post(leaving::drain),
            "drainNode",
            "Has a node take no more requests of clients, or take them again",
        )
        .may_take("DrainOrder")
        .answers(&[(202, Json("DrainBegun"))])
        .fails(&[Code::UnknownNode, Code::NodeUnavailable, Code::ShuttingDown]),
        shows(
            "/api/v1/cluster/health",
            get(cluster::whole),
            "clusterHealth",
            "How the cluster fares, and what would break if one more node died",
            &[(200, Json("ClusterHealth"))],
        ),
        shows(
            "/api/v1/cluster/nodes",
            get(cluster::nodes),
            "nodes",
            "The members, as this node sees them",
            &[(200, Json("Nodes"))],
        ),
        shows(
            "/api/v1/cluster/topology",
            get(cluster::topology),
            "topology",
            "Who holds what",
            &[(200, Json("Topology"))],
        ),
    ]
}

fn of_the_node() -> Vec<Route> {
    const TAG: &str = "Node";
    const CONFIG: &str = "/api/v1/config";
    let shows = |path, handler, name, summary, answers| call("get", path, handler, name, TAG, summary).answers(answers);
    vec![
        shows("/livez", get(cluster::livez), "livez", "Whether the process lives", &[(200, Json("Live"))]),
        shows(
            "/readyz",
            get(cluster::readyz),
            "readyz",
            "Whether clients should come here, and what is missing if not",
            &[(200, Json("Ready")), (503, Json("Ready"))],
        ),
        shows(
            "/api/v1/health",
            get(cluster::health),
            "health",
            "Whether this node serves, and what an operator should know",
            &[(200, Json("Health")), (503, Json("Health"))],
        ),
        shows(
            "/api/v1/stats",
            get(stats::stats),
            "stats",
            "The numbers of this node, for people",
            &[(200, JsonOrText("Stats"))],
        ),
        shows("/metrics", get(metrics::metrics), "metrics", "The numbers of this node", &[(200, Text(CONTENT_TYPE))]),
        shows(
            "/api/v1/requests/slow",
            get(stats::slow_requests),
            "slowRequests",
            "The accounts of the last slow requests",
            &[(200, Json("SlowRequests"))],
        ),
        shows(CONFIG, get(config::show), "settings", "All settings of this node", &[(200, Json("Settings"))]),
        call("patch", CONFIG, patch(config::change), "changeSettings", TAG, "Changes settings until the node ends")
            .takes("SettingsPatch")
            .answers(&[(200, Json("SettingsChanged"))])
            .fails(&[Code::Conflict]),
    ]
}

fn documents() -> Vec<Route> {
    const TAG: &str = "Documents";
    const PAGE: &[(u16, Answer)] = &[(200, Text("text/html; charset=utf-8"))];
    vec![
        call("get", "/api/v1/openapi.json", get(openapi), "openapi", TAG, "This document")
            .answers(&[(200, Json("OpenApi"))]),
        call("get", "/docs", get(page), "docs", TAG, "A page that shows this document")
            .at(&["/docs", "/api/v1/docs"])
            .answers(PAGE),
    ]
}
