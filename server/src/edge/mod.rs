//! What every front door shares: REST, gRPC and whatever comes later are adapters over this and hold no logic of the
//! store.
//!
//! A request's way: the door reads it (`rest/`, `grpc/`), [`Edge::enter`] lets it pass, [`Edge::write`], [`Edge::read`]
//! and [`Edge::range`] (or their `start_` forms, for who does not wait) and [`Edge::scan`] hand it to the coordinator, which
//! tells the answer by a callback, and `explain.rs` turns errors into what a client is told.
//!
//! Invariant: a request whose client went away goes on to its end, or a write would be lost half done; nobody waits for
//! its answer, and nothing is left of it. Only a scan, which is long and changes nothing, ends with its client.

mod access;
pub(crate) mod account;
mod code;
mod doors;
pub(crate) mod duration;
mod error;
mod explain;
mod meter;
mod names;
mod numbers;
pub(crate) mod page;
pub(crate) mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwapOption;
use cube_replication::catalog::{Catalog, ClusterState};
use cube_replication::consistency::Level;
pub(crate) use cube_replication::coordinator::Arrival;
use cube_replication::coordinator::{
    Account, Coordinator, Explained, PrefixPage, PrefixRequest, RangePage, RangeRequest, ReadFigures, ReadRequest,
    ReadRow, RequestError, Settings, TableName, Terms, WriteRequest, Written,
};
use cube_replication::trace::OpenSpan;
use cube_storage::SyncPolicy;
use cube_storage::model::{Limits, TableId};
use tokio::sync::oneshot;

pub use self::access::{Access, Caller};
pub use self::code::Code;
pub use self::doors::{Closing, Doors, Inside, Phase};
#[cfg(test)]
pub(crate) use self::error::FAILURES_MAX;
pub use self::error::{Details, EdgeError, Explanation, ReplicaFailure};
pub use self::explain::{explain, refuse, unknown_level, unknown_name};
use self::meter::Metered;
pub use self::names::Names;
pub(crate) use self::numbers::Stats;
use crate::admin::Admin;
use crate::config::Live;
use crate::metrics::{Meter, Operation};
use crate::traces::Traces;

/// The keyspace of a request that names none.
pub const DEFAULT_KEYSPACE: &str = "default";
/// The table of a request that names none.
pub const DEFAULT_TABLE: &str = "kv";
/// The level of a request that names none: reads see the writes before them.
pub const DEFAULT_LEVEL: Level = Level::Quorum;
/// The longest time of a request, whatever it asks for: it holds a place among those under way.
pub const TIMEOUT_MS_MAX: u32 = 60_000;

/// What an edge works with.
pub struct EdgeParts {
    /// Carries requests for rows out.
    pub coordinator: Arc<Coordinator>,
    /// The schema, and the names of nodes.
    pub catalog: Arc<Catalog>,
    /// The rest of the node.
    pub admin: Arc<dyn Admin>,
    /// What a request may hold: the doors size their buffers by it.
    pub limits: Limits,
    /// The coordinator's, for the time of a request that does not say.
    pub settings: Settings,
    /// When writes are acknowledged in keyspaces that do not say.
    pub sync: SyncPolicy,
    /// All settings of the node.
    pub config: Arc<Live>,
    /// Traces requests, if that is wanted.
    pub traces: Option<Arc<Traces>>,
    /// Whether clients are let in.
    pub doors: Arc<Doors>,
}

/// What front doors share.
pub struct Edge {
    parts: EdgeParts,
    meter: Arc<Meter>,
    turned_away: ArcSwapOption<String>,
    waiting_answers: AtomicUsize,
}

impl Edge {
    /// An edge that takes requests.
    pub fn new(parts: EdgeParts) -> Arc<Self> {
        let (turned_away, waiting_answers) = (ArcSwapOption::empty(), AtomicUsize::new(0));
        Arc::new(Self { parts, meter: Arc::default(), turned_away, waiting_answers })
    }

    /// Whether clients are let in.
    pub fn doors(&self) -> &Doors {
        &self.parts.doors
    }

    /// Done when new work is turned away.
    pub async fn draining(&self) {
        self.parts.doors.until_closed().await;
    }

    /// Turns reads and writes away for this reason, until it is called again without one: what such a node coordinates
    /// would be refused by the others, or do harm.
    pub fn turn_away(&self, reason: Option<String>) {
        self.turned_away.store(reason.map(Arc::new));
    }

    /// When writes are acknowledged in keyspaces that do not say.
    pub fn sync(&self) -> SyncPolicy {
        self.parts.sync
    }

    /// All settings of the node.
    pub fn config(&self) -> &Live {
        &self.parts.config
    }

    /// Counts requests.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The rest of the node.
    pub fn admin(&self) -> &dyn Admin {
        self.parts.admin.as_ref()
    }

    /// What a request may hold.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }

    /// The time of a request that does not say, and its bounds.
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// The newest state of the cluster.
    pub fn state(&self) -> Arc<ClusterState> {
        self.parts.catalog.current()
    }

    /// What a client is told of an error of the coordinator.
    pub fn explain(&self, error: RequestError) -> EdgeError {
        explain_by(&self.parts.catalog, error)
    }

    /// Has rows written; `told` hears, for each partition key in the order they first appear, what came of it. It is
    /// dropped unheard when the node ends before that.
    pub fn start_write(
        &self,
        caller: Caller,
        mut request: WriteRequest,
        told: impl FnOnce(Result<Vec<Result<Written, RequestError>>, EdgeError>) + Send + 'static,
    ) {
        let metered = self.begin(Operation::Write, &mut request.terms);
        let told = move |result| {
            metered.end_each(&result);
            told(result);
        };
        let _inside = match self.enter(caller, Access::Write(&request.table)) {
            Ok(inside) => inside,
            Err(refused) => return told(Err(refused)),
        };
        let catalog = Arc::clone(&self.parts.catalog);
        let told = move |result: Result<_, _>| told(result.map_err(|error| explain_by(&catalog, error)));
        self.parts.coordinator.write(request, Box::new(told));
    }

    /// Has rows read; `told` hears what was found of each, in their order.
    pub fn start_read(
        &self,
        caller: Caller,
        mut request: ReadRequest,
        told: impl FnOnce(Result<Vec<Result<ReadRow, RequestError>>, EdgeError>) + Send + 'static,
    ) {
        let metered = self.begin(Operation::Read, &mut request.terms);
        let told = move |result| {
            metered.end_each(&result);
            told(result);
        };
        let _inside = match self.enter(caller, Access::Read(&request.table)) {
            Ok(inside) => inside,
            Err(refused) => return told(Err(refused)),
        };
        let catalog = Arc::clone(&self.parts.catalog);
        let told = move |result: Result<_, _>| told(result.map_err(|error| explain_by(&catalog, error)));
        self.parts.coordinator.read(request, Box::new(told));
    }

    /// Has a page of the rows of one partition key read.
    pub fn start_range(
        &self,
        caller: Caller,
        mut request: RangeRequest,
        told: impl FnOnce(Result<RangePage, EdgeError>) + Send + 'static,
    ) {
        let metered = self.begin(Operation::Range, &mut request.terms);
        let told = move |result| {
            metered.end(&result);
            told(result);
        };
        let _inside = match self.enter(caller, Access::Read(&request.table)) {
            Ok(inside) => inside,
            Err(refused) => return told(Err(refused)),
        };
        let catalog = Arc::clone(&self.parts.catalog);
        let told = move |result: Result<_, _>| told(result.map_err(|error| explain_by(&catalog, error)));
        self.parts.coordinator.range(request, Box::new(told));
    }

    /// Writes rows: for each partition key, in the order they first appear, what came of it.
    pub async fn write(
        &self,
        caller: Caller,
        request: WriteRequest,
    ) -> Result<Vec<Result<Written, RequestError>>, EdgeError> {
        let (told, answer) = oneshot::channel();
        // Nobody listens any more when the client went away.
        self.start_write(caller, request, move |result| drop(told.send(result)));
        answer.await.map_err(|_| stopped_while_writing())?
    }

    /// Writes rows of one partition key.
    pub async fn write_one(&self, caller: Caller, request: WriteRequest) -> Result<Written, EdgeError> {
        let results = self.write(caller, request).await?;
        let only = results.into_iter().next().ok_or_else(stopped_while_writing)?;
        only.map_err(|error| self.explain(error))
    }

    /// Reads rows: what was found of each, in their order.
    pub async fn read(
        &self,
        caller: Caller,
        request: ReadRequest,
    ) -> Result<Vec<Result<ReadRow, RequestError>>, EdgeError> {
        let (told, answer) = oneshot::channel();
        self.start_read(caller, request, move |result| drop(told.send(result)));
        answer.await.map_err(|_| stopped_while_reading())?
    }

    /// Reads one row.
    pub async fn read_one(&self, caller: Caller, request: ReadRequest) -> Result<ReadRow, EdgeError> {
        let results = self.read(caller, request).await?;
        let only = results.into_iter().next().ok_or_else(stopped_while_reading)?;
        only.map_err(|error| self.explain(error))
    }

    /// Reads a page of the rows of one partition key.
    pub async fn range(&self, caller: Caller, request: RangeRequest) -> Result<RangePage, EdgeError> {
        let (told, answer) = oneshot::channel();
        self.start_range(caller, request, move |result| drop(told.send(result)));
        answer.await.map_err(|_| stopped_while_reading())?
    }

    /// Reads a page of a table's rows by key prefix. Whoever stops waiting for it ends it.
    pub async fn scan(&self, caller: Caller, mut request: PrefixRequest) -> Result<PrefixPage, EdgeError> {
        let metered = self.begin(Operation::Scan, &mut request.terms);
        let page = self.scan_page(caller, request).await;
        metered.end(&page);
        page
    }

    async fn scan_page(&self, caller: Caller, request: PrefixRequest) -> Result<PrefixPage, EdgeError> {
        let inside = self.enter(caller, Access::Read(&request.table))?;
        let (told, answer) = oneshot::channel();
        let _scanning = self.parts.coordinator.scan(request, Box::new(move |result| drop(told.send(result))));
        drop(inside);
        let page = answer.await.map_err(|_| stopped_while_reading())?;
        page.map_err(|error| self.explain(error))
    }

    /// What is done for the request from here on is part of its first span on this node.
    fn begin(&self, operation: Operation, terms: &mut Terms) -> Metered {
        let traces = self.parts.traces.as_ref();
        let span = traces.and_then(|traces| traces.begin(terms.trace, meter::span_name(operation)));
        terms.trace = span.as_ref().map(OpenSpan::context);
        Metered::begin(&self.meter, operation, terms.level, span.map(Box::new))
    }

    /// Bytes of answers that are ready and that the clients of sessions have not taken.
    pub(crate) fn waiting_answers(&self) -> &AtomicUsize {
        &self.waiting_answers
    }

    /// Counts bytes of a request that begins to arrive, until what is returned is dropped.
    pub(crate) fn arriving(&self, bytes: usize) -> Result<Arrival, EdgeError> {
        self.parts.coordinator.arriving(bytes).map_err(|error| self.explain(error))
    }

    /// The same where they are not to be refused.
    pub(crate) fn arriving_anyway(&self, bytes: usize) -> Arrival {
        self.parts.coordinator.arriving_anyway(bytes)
    }

    /// Traces requests, if that is wanted.
    pub(crate) fn traces(&self) -> Option<&Arc<Traces>> {
        self.parts.traces.as_ref()
    }

    /// Requests under way and the bytes they hold.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.parts.coordinator.in_flight(), self.parts.coordinator.in_flight_bytes())
    }

    /// What reads came upon since the node started, by table.
    pub fn read_figures(&self) -> BTreeMap<TableId, ReadFigures> {
        self.parts.coordinator.read_figures()
    }

    /// The accounts of the last slow requests, the oldest first.
    pub fn slow_requests(&self) -> Vec<Arc<Account>> {
        self.parts.coordinator.slow_requests()
    }
}

/// A table by its names, with those that go without saying.
pub fn table_name(keyspace: Option<String>, table: Option<String>) -> TableName {
    TableName {
        keyspace: keyspace.unwrap_or_else(|| DEFAULT_KEYSPACE.to_owned()),
        table: table.unwrap_or_else(|| DEFAULT_TABLE.to_owned()),
    }
}

/// How a request is to be done.
pub fn terms(level: Option<Level>, timeout_ms: Option<u32>, explain: bool) -> Terms {
    let timeout_ms = timeout_ms.map(|asked_ms| asked_ms.min(TIMEOUT_MS_MAX));
    Terms { level: level.unwrap_or(DEFAULT_LEVEL), timeout_ms, explain, trace: None }
}

/// A level by its name, in any case.
pub fn parse_level(word: &str) -> Result<Level, EdgeError> {
    word.parse().map_err(|unknown| unknown_level(&unknown))
}

fn explain_by(catalog: &Catalog, error: RequestError) -> EdgeError {
    let state = catalog.current();
    let account = error.account().cloned();
    let mut told = explain(error, &Names::new(&state));
    told.explained = account.map(|account| {
        // In the words for clients, in which nodes have names.
        let account = Account { error: Some(told.message.clone()), ..(*account).clone() };
        Box::new(Explanation { account, state: Arc::clone(&state) })
    });
    told
}

/// The coordinator lets go of what is under way when the process ends.
pub(crate) fn stopped_while_writing() -> EdgeError {
    let details = Details { may_take_effect: true, acknowledged_by: Some(Vec::new()), ..Details::default() };
    EdgeError::with(Code::WriteUnknown, "the node stopped: the write is unknown, it may still take effect", details)
}

pub(crate) fn stopped_while_reading() -> EdgeError {
    EdgeError::new(Code::ShuttingDown, "the node stopped before the read was complete: ask another node")
}
