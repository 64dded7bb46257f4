//! What lasts between statements: the cluster and the node that is asked about it, the keyspace, table and level in use.
//!
//! Rows are asked of the nodes that hold them; everything else of one node, the *contact*. When that one does not answer,
//! another one does and becomes the contact, and a notice tells so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cube_client::admin::{Admin, Keyspace, Member, Told};
use cube_client::{Client, Error, Level, Options, Table};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::error::ShellError;
use crate::statement::{TableName, nearest};

/// The port on which nodes serve clients unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 7400;
/// What is asked when the time of a statement is over fails as late, and not as something that was never asked.
const TIME_MIN: Duration = Duration::from_millis(1);
/// Notices that wait to be shown. Older ones are dropped.
const NOTICES_MAX: usize = 16;

/// What lasts between statements.
#[derive(Debug)]
pub(crate) struct Session {
    client: Option<Client>,
    /// Where to connect when a statement first needs it; none after the last connection was forgotten.
    target: Option<String>,
    /// The address of the node that is asked about the cluster.
    contact: Option<String>,
    /// The names of the members by their addresses.
    names: BTreeMap<String, String>,
    /// Addresses whose connections the shell was told to forget.
    forgotten: Vec<String>,
    /// How long a statement may take.
    pub(crate) timeout: Duration,
    /// When the statement that is under way has taken that long.
    deadline: Instant,
    /// The keyspace in use.
    pub(crate) keyspace: String,
    /// The table in use, if one was chosen.
    pub(crate) table: Option<String>,
    /// The level of statements that name none.
    pub(crate) level: Level,
    notices: Vec<String>,
    /// Rings when the user wants an end of what has to be ended elsewhere too.
    pub(crate) interrupted: Arc<Notify>,
    /// Once interruptions are watched for: whether there is something to be ended elsewhere at the moment.
    pub(crate) interruptible: Option<Arc<AtomicBool>>,
    /// Whether somebody watches, and wants to see how far something is.
    pub(crate) is_watched: bool,
}

/// Of the time to connect this is kept for the reason why it failed, or a fifth where that is less.
const REASON_WAIT_MAX: Duration = Duration::from_secs(2);

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// So long each attempt to connect takes at the least; what is under way then is waited for.
const ATTEMPT: Duration = Duration::from_secs(1);
/// After so many attempts in a row that something answered which is no gRPC, the rest of the time would change nothing. A
/// node that ends or begins may look so for a moment.
const STRANGE_ANSWERS_MAX: u32 = 3;

/// Whether something answers that is no gRPC. Which of these is told depends on who hangs up first.
fn speaks_no_grpc(reason: &str) -> bool {
    const SIGNS: [&str; 4] = ["protocol error", "404 Not Found", "transport error", "operation was canceled"];
    SIGNS.iter().any(|sign| reason.contains(sign))
}

/// What a first user most probably did in that case: took a node's HTTP port.
fn plainly(reason: &str) -> String {
    if speaks_no_grpc(reason) {
        return format!("what answers there speaks no gRPC, as a node's HTTP port would ({reason})");
    }
    reason.to_owned()
}

/// Tries to connect until the time is over, or something else than a node has answered often enough.
async fn connect(target: &str, time: Duration) -> Result<Client, Error> {
    let deadline = Instant::now() + time;
    let mut strange_answers = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Statements say themselves how long they take: this is the time to connect alone.
        let options = Options { timeout: left.min(ATTEMPT), ..Options::default() };
        let error = match Client::connect_with([target], options).await {
            Err(error @ Error::Unreachable { .. }) => error,
            ended => return ended,
        };
        let is_strange = matches!(&error, Error::Unreachable { reason, .. } if speaks_no_grpc(reason));
        strange_answers = if is_strange { strange_answers + 1 } else { 0 };
        if strange_answers >= STRANGE_ANSWERS_MAX || left <= ATTEMPT {
            return Err(error);
        }
    }
}

impl Session {
    /// A session that connects when it first has to.
    pub(crate) fn new(target: String, timeout: Duration) -> Self {
        Self {
            client: None,
            target: Some(target),
            contact: None,
            names: BTreeMap::new(),
            forgotten: Vec::new(),
            timeout,
            deadline: Instant::now() + timeout,
            keyspace: "default".to_owned(),
            table: Some("kv".to_owned()),
            level: Level::default(),
            notices: Vec::new(),
            interrupted: Arc::default(),
            interruptible: None,
            is_watched: false,
        }
    }

    /// A statement begins, and has the time of one for all that it asks.
    pub(crate) fn begin(&mut self) {
        self.deadline = Instant::now() + self.timeout;
    }

    /// What is left of the time of the statement that is under way.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(TIME_MIN)
    }

    /// The cluster, connected to by now.
    pub(crate) async fn client(&mut self) -> Result<Client, ShellError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let target = self.target.clone().ok_or(ShellError::NotConnected)?;
        self.connect(target).await
    }

    /// Connects to the cluster of which a node has this address. The session stays where it is if that fails.
    pub(crate) async fn connect(&mut self, target: String) -> Result<Client, ShellError> {
        let time = self.left();
        // It is tried for a little less, to be told why it failed. The attempt that is under way then is not waited for.
        let tried = time.saturating_sub((time / 5).min(REASON_WAIT_MAX));
        let connected = match timeout(time, connect(&target, tried)).await {
            Ok(connected) => connected.map_err(|error| match error {
                Error::Unreachable { node, reason, .. } => (node, plainly(&reason)),
                error => (target.clone(), error.to_string()),
            }),
            Err(_) => Err((target.clone(), format!("it does not answer within {} ms", time.as_millis()))),
        };
        let client = connected.map_err(|(address, reason)| ShellError::CannotConnect { address, reason })?;
        self.client = Some(client.clone());
        self.contact = Some(target.clone());
        self.target = Some(target);
        self.forgotten.clear();
        self.names.clear();
        Ok(client)
    }

    /// A copy for asking without waiting for the session.
    pub(crate) fn connected(&self) -> Option<Client> {
        self.client.clone()
    }

    /// Questions about the cluster, asked of the contact first.
    pub(crate) async fn admin(&mut self) -> Result<Admin, ShellError> {
        let admin = self.client().await?.admin().timeout(self.left());
        Ok(match &self.contact {
            Some(contact) => admin.first(contact),
            None => admin,
        })
    }

    /// The members, as the contact sees them.
    pub(crate) async fn members(&mut self) -> Result<Told<Vec<Member>>, ShellError> {
        let told = self.admin().await?.nodes().await?;
        self.names = told.answer.iter().map(|member| (member.grpc.clone(), member.name.clone())).collect();
        self.heard(&told.by);
        Ok(told)
    }

    /// The schema, as the contact knows it.
    pub(crate) async fn schema(&mut self) -> Result<Vec<Keyspace>, ShellError> {
        let told = self.admin().await?.schema().await?;
        self.heard(&told.by);
        Ok(told.answer)
    }

    /// Takes note of who answered.
    pub(crate) fn heard(&mut self, by: &str) {
        if let Some(before) = self.contact.replace(by.to_owned())
            && before != by
        {
            let notice = format!("{} does not answer; talking to {} now", self.name_of(&before), self.name_of(by));
            if self.notices.len() < NOTICES_MAX {
                self.notices.push(notice);
            }
        }
    }

    /// Notices since they were last taken.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// A node as people know it.
    pub(crate) fn name_of(&self, address: &str) -> String {
        match self.names.get(address) {
            Some(name) => format!("{name} ({address})"),
            None => address.to_owned(),
        }
    }

    /// Where the contact is.
    pub(crate) fn contact_address(&self) -> Option<String> {
        self.contact.clone()
    }

    /// The name of the contact, or its address.
    pub(crate) fn contact(&self) -> Option<String> {
        let contact = self.contact.as_ref()?;
        Some(self.names.get(contact).unwrap_or(contact).clone())
    }

    /// Forgets the connection to a node, or all; the name of the one that is talked to instead, if there is one.
    pub(crate) async fn disconnect(&mut self, node: Option<&str>) -> Result<Option<String>, ShellError> {
        let Some(node) = node else {
            self.forget_all();
            return Ok(None);
        };
        let members = self.members().await?.answer;
        let is_it = |member: &&Member| member.name.eq_ignore_ascii_case(node) || member.grpc == node;
        let Some(gone) = members.iter().find(is_it) else {
            let nearest = nearest(node, members.iter().map(|member| member.name.as_str())).map(str::to_owned);
            return Err(ShellError::NoSuch { what: "node", name: node.to_owned(), nearest });
        };
        if !self.forgotten.contains(&gone.grpc) {
            self.forgotten.push(gone.grpc.clone());
        }
        let mut others: Vec<&Member> = members.iter().filter(|member| !self.forgotten.contains(&member.grpc)).collect();
        others.sort_by_key(|member| !member.alive);
        let is_contact = self.contact.as_ref() == Some(&gone.grpc);
        match others.first() {
            None => self.forget_all(),
            Some(next) if is_contact => self.contact = Some(next.grpc.clone()),
            Some(_) => {}
        }
        Ok(self.contact())
    }

    fn forget_all(&mut self) {
        self.client = None;
        self.target = None;
        self.contact = None;
        self.forgotten.clear();
    }

    /// A table by its full name: what is not said is that in use.
    pub(crate) fn full_name(&self, named: Option<&TableName>) -> Result<(String, String), ShellError> {
        if let Some(name) = named {
            let keyspace = name.keyspace.clone().unwrap_or_else(|| self.keyspace.clone());
            return Ok((keyspace, name.table.clone()));
        }
        let chosen = self.table.clone().ok_or_else(|| ShellError::NoSuch {
            what: "table chosen in keyspace",
            name: self.keyspace.clone(),
            nearest: Some(format!("USE {}.table", self.keyspace)),
        })?;
        Ok((self.keyspace.clone(), chosen))
    }

    /// A table to ask for rows.
    pub(crate) async fn rows(&mut self, named: Option<&TableName>) -> Result<Table, ShellError> {
        let (keyspace, table) = self.full_name(named)?;
        Ok(self.client().await?.table(keyspace, table))
    }
}
