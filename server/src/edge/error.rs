//! What a client is told when its request was not done: one code, a message for people, details for machines.
//!
//! Invariants: nodes are named, never numbered; the message and the details are bounded, whatever the request held and
//! however many replicas failed, because gRPC carries them in a header.

use std::sync::Arc;

use cube_replication::catalog::ClusterState;
use cube_replication::coordinator::Account;
use serde::Serialize;
use thiserror::Error;

use super::code::Code;

/// As much of a message is told.
const MESSAGE_BYTES_MAX: usize = 1024;
/// So many replicas' failures are told: more than a row commonly has replicas.
pub(crate) const FAILURES_MAX: usize = 8;
/// As much is told of each.
const FAILURE_BYTES_MAX: usize = 256;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct EdgeError {
    /// For machines.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For machines, by code.
    pub details: Box<Details>,
    /// What was done for the request, where that was asked for and anything was.
    pub explained: Option<Box<Explanation>>,
}

/// What was done for a request that fell short, and the state of the cluster by which its nodes and table are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was done.
    pub account: Account,
    /// What names it.
    pub state: Arc<ClusterState>,
}

/// What is known beyond the code. The names in JSON are those of `cube.v1.ErrorDetail`, in camel case.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Whether what was asked for may still take effect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub may_take_effect: bool,
    /// After so many milliseconds another try may be worth it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// The level that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<&'static str>,
    /// Replicas that the level needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<u32>,
    /// Replicas that are alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<u32>,
    /// The data center that is short of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_center: Option<String>,
    /// The names of the replicas that did what was asked, durably.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<Vec<String>>,
    /// How many more the level needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<u32>,
    /// Whether time was over, rather than every hope lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<bool>,
    /// What is known of the other replicas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<ReplicaFailure>,
    /// What was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// What is allowed at the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Every choice there is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<&'static str>,
    /// The keyspace that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyspace: Option<String>,
    /// The table that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How far a clock or a timestamp is ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead_ms: Option<u64>,
    /// The purge floor, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ms: Option<u64>,
    /// The repair that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_id: Option<String>,
}

/// Why one replica did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaFailure {
    /// Its name.
    pub node: String,
    /// For machines.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl ReplicaFailure {
    pub(crate) fn new(node: String, code: &'static str, message: String) -> Self {
        Self { node, code, message: cut(message, FAILURE_BYTES_MAX) }
    }
}

impl EdgeError {
    /// An error with nothing to say beyond its message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self::with(code, message, Details::default())
    }

    /// An error with details.
    pub fn with(code: Code, message: impl Into<String>, details: Details) -> Self {
        Self { code, message: cut(message.into(), MESSAGE_BYTES_MAX), details: Box::new(details), explained: None }
    }

    /// A request that is not of the form it must have.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }
}

/// As many bytes as there may be of a text that may hold whatever a client sent.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    const MARK: &str = "...";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_client_sent_a_message_is_bounded_and_whole_letters() {
        let error = EdgeError::invalid("ü".repeat(MESSAGE_BYTES_MAX));
        assert!(error.message.len() <= MESSAGE_BYTES_MAX);
        assert!(error.message.ends_with("ü..."));
        assert_eq!(EdgeError::invalid("short").message, "short");
    }

    #[test]
    fn details_that_say_nothing_are_left_out() {
        assert_eq!(serde_json::to_string(&Details::default()).unwrap(), "{}");
        let details = Details { required: Some(3), alive: Some(2), ..Details::default() };
        assert_eq!(serde_json::to_string(&details).unwrap(), r#"{"required":3,"alive":2}"#);
    }
}
