//! Why a statement was not done, and the exit code that stands for it.

use cube_client::{Error, Refusal};

use crate::outcome::Account;
use crate::run::account_of;
use crate::statement::{SyntaxError, harmless};

/// All was done.
pub(crate) const EXIT_OK: u8 = 0;
/// A statement was refused or failed; it changed nothing.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line, or a statement, cannot be understood.
pub(crate) const EXIT_USAGE: u8 = 2;
/// No node could be reached.
pub(crate) const EXIT_UNREACHABLE: u8 = 3;
/// A write failed, and it is unknown whether it took effect.
pub(crate) const EXIT_UNKNOWN: u8 = 4;
/// Somebody interrupted it: what shells say of a program that ended by the signal.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Why a statement was not done.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// It cannot be understood.
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// The cluster, or the way to it.
    #[error("{}", tell(.0))]
    Client(Error),
    /// The cluster, and what was probably meant instead.
    #[error("{}\n  did you mean {nearest}?", tell(.error))]
    Meant {
        /// Its words.
        error: Box<Error>,
        /// What there is.
        nearest: String,
    },
    /// No node of this cluster answers.
    #[error(
        "cannot connect to {address}: {reason}. Does a node run there? `cubed dev --nodes 3 --dir DIR` starts three on \
         this machine; --host and --port name others"
    )]
    CannotConnect {
        /// What was tried.
        address: String,
        /// What came of it.
        reason: String,
    },
    /// The shell forgot its last connection.
    #[error("not connected: CONNECT host port")]
    NotConnected,
    /// A change of the schema waits, because too few live that have to agree.
    #[error(
        "{alive} of {voters} voters are alive, and {required} have to agree: the change is not made yet, and it may be when \
         they are back\n  NODES shows who is down; DESCRIBE tells what the schema is"
    )]
    NoMajority {
        /// Who votes.
        voters: usize,
        /// How many of them live.
        alive: u32,
        /// How many have to agree.
        required: u32,
    },
    /// The node that runs a repair is not heard any more.
    #[error("{node} does not answer any more ({}): repair {id} goes on when it is back", harmless(.reason))]
    RepairLost {
        /// Its name.
        node: String,
        /// The repair.
        id: String,
        /// Why it is not heard.
        reason: String,
    },
    /// A repair that was to end goes on.
    #[error("{node} was not told to end repair {id}: {}", harmless(.reason))]
    RepairNotCancelled {
        /// The name of the node that runs it.
        node: String,
        /// The repair.
        id: String,
        /// Why it was not told.
        reason: String,
    },
    /// A repair that did not do everything.
    #[error("{}", harmless(.told))]
    RepairEnded {
        /// What it did.
        told: String,
    },
    /// There is no such thing in this cluster.
    #[error("there is no {what} {name:?}{}", meant(.nearest.as_deref()))]
    NoSuch {
        /// A keyspace, a table, a node.
        what: &'static str,
        /// Its name.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A file cannot be read or written, or has in it what cannot be.
    #[error("{0}")]
    File(String),
    /// Nobody reads any more what is written: there is nothing left to do, and nothing to be told.
    #[error("nobody reads the rows any more")]
    NobodyReads,
    /// It was cancelled by the user.
    #[error("cancelled{}", if *.writes { "; it may have taken effect" } else { "" })]
    Cancelled {
        /// Whether it could have changed something.
        writes: bool,
    },
}

impl From<Error> for ShellError {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}

/// The words of the client, with what can be done about it.
fn tell(error: &Error) -> String {
    let mut told = match error {
        // The shell says what was asked; the address of the node that said no helps nobody.
        Error::Refused { refusal, .. } => format!("{} [{}]", refusal.message, refusal.code),
        Error::Unreachable { asked, node, reason, .. } => {
            format!("{asked}: no node can be reached, the last tried was {node}: {reason}")
        }
        _ => error.to_string(),
    };
    if let Some(refusal) = error.refusal() {
        // Most messages name the replicas themselves.
        for failure in refusal.failures.iter().filter(|failure| !told.contains(&failure.node)).collect::<Vec<_>>() {
            told.push_str(&format!("\n  {}: {} [{}]", failure.node, failure.message, failure.code));
        }
        if let Some(hint) = hint(refusal) {
            told.push_str(&format!("\n  {hint}"));
        }
    } else if matches!(error, Error::NotAnswered { .. } | Error::Unknown { .. } | Error::Unreachable { .. }) {
        told.push_str("\n  NODES shows who is down");
    }
    harmless(&told)
}

fn hint(refusal: &Refusal) -> Option<&'static str> {
    match refusal.code.as_str() {
        "unavailable" => {
            Some("NODES shows who is down; a lower level (CL=ONE) needs fewer replicas, and promises less")
        }
        "unknown_keyspace" | "unknown_table" => Some("DESCRIBE lists the keyspaces and tables"),
        "unsupported" => Some("it runs an older release; NODES shows which ones there are"),
        "no_majority" => Some("NODES shows who is down: the schema changes only while a majority is alive"),
        "already_exists" => Some("DESCRIBE shows its options; ALTER changes them"),
        "level_not_for_reading" => Some("say CL=ONE, or CONSISTENCY QUORUM"),
        "read_timeout" | "write_unknown" | "read_failed" => Some("NODES shows who is down"),
        _ => None,
    }
}

impl ShellError {
    /// What programs decide by: a code of `docs/errors.md`, or one of the shell's own.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Syntax(_) => "syntax",
            Self::Client(error) => error.code(),
            Self::Meant { error, .. } => error.code(),
            Self::CannotConnect { .. } => "cannot_connect",
            Self::NotConnected => "not_connected",
            Self::NoSuch { .. } => "no_such",
            Self::File(_) => "file",
            Self::NobodyReads => "nobody_reads",
            Self::NoMajority { .. } => "no_majority",
            Self::RepairEnded { .. } => "repair_not_completed",
            Self::RepairLost { .. } => "repair_lost",
            Self::RepairNotCancelled { .. } => "repair_not_cancelled",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether a write may have taken effect all the same.
    pub(crate) fn may_take_effect(&self) -> bool {
        match self {
            Self::Client(error) => error.may_take_effect(),
            Self::Meant { error, .. } => error.may_take_effect(),
            Self::Cancelled { writes } => *writes,
            Self::NoMajority { .. } | Self::RepairLost { .. } | Self::RepairNotCancelled { .. } => true,
            _ => false,
        }
    }

    /// The node's words, if it was one that said no.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Client(error) => error.refusal(),
            Self::Meant { error, .. } => error.refusal(),
            _ => None,
        }
    }

    /// What was done for the statement, if it asked for that and anything was.
    pub(crate) fn account(&self) -> Option<Account> {
        account_of(std::slice::from_ref(self.refusal()?.explained.as_deref()?))
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Syntax(_) => EXIT_USAGE,
            Self::CannotConnect { .. } | Self::NotConnected => EXIT_UNREACHABLE,
            Self::Client(Error::Unreachable { .. }) => EXIT_UNREACHABLE,
            _ if self.may_take_effect() => EXIT_UNKNOWN,
            _ => EXIT_FAILED,
        }
    }
}
