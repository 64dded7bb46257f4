//! The codes of all errors that a client can be told, each with one HTTP and one gRPC status. `docs/errors.md` lists
//! them, and a test compares.
//!
//! Invariant: a write that may have taken effect ends with 504 and `DEADLINE_EXCEEDED`, and no other error of a write
//! does, so a client knows what is safe to repeat from the status alone.

use axum::http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal, $http:ident, $grpc:ident;)*) => {
        /// What went wrong, for machines. Names never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        impl Code {
            /// All of them.
            pub const EVERY: &[Self] = &[$(Self::$code),*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// The HTTP status that stands for it.
            pub const fn http(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$http,)* }
            }

            /// The gRPC status that stands for it.
            pub const fn grpc(self) -> tonic::Code {
                match self { $(Self::$code => tonic::Code::$grpc,)* }
            }
        }
    };
}

codes! {
    /// The body is no JSON.
    MalformedJson = "malformed_json", BAD_REQUEST, InvalidArgument;
    /// What came over gRPC is no message.
    MalformedMessage = "malformed_message", BAD_REQUEST, InvalidArgument;
    /// A field or parameter is unknown, missing, or not of the form it must have.
    InvalidRequest = "invalid_request", BAD_REQUEST, InvalidArgument;
    /// The level is none.
    UnknownLevel = "unknown_level", BAD_REQUEST, InvalidArgument;
    /// A read at ANY.
    LevelNotForReading = "level_not_for_reading", BAD_REQUEST, InvalidArgument;
    /// The key is empty.
    EmptyKey = "empty_key", BAD_REQUEST, InvalidArgument;
    /// The time to live is not within its bounds.
    InvalidTtl = "invalid_ttl", BAD_REQUEST, InvalidArgument;
    /// The client's timestamp is too far ahead.
    TimestampTooFarAhead = "timestamp_too_far_ahead", BAD_REQUEST, InvalidArgument;
    /// A page is asked for that is empty or too large.
    InvalidPage = "invalid_page", BAD_REQUEST, InvalidArgument;
    /// The page token belongs to no page of this scan.
    InvalidPageToken = "invalid_page_token", BAD_REQUEST, InvalidArgument;
    /// The table's keys cannot be scanned by prefix.
    NoPrefixIndex = "no_prefix_index", BAD_REQUEST, FailedPrecondition;
    /// A keyspace or a table cannot be so.
    InvalidSchema = "invalid_schema", BAD_REQUEST, InvalidArgument;
    /// There is nothing at that path.
    NotFound = "not_found", NOT_FOUND, NotFound;
    /// There is no such keyspace.
    UnknownKeyspace = "unknown_keyspace", NOT_FOUND, NotFound;
    /// There is no such table.
    UnknownTable = "unknown_table", NOT_FOUND, NotFound;
    /// No member has that name.
    UnknownNode = "unknown_node", NOT_FOUND, NotFound;
    /// There is no such repair.
    UnknownRepair = "unknown_repair", NOT_FOUND, NotFound;
    /// The path is there, the method is not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, Unimplemented;
    /// The body, or the message, did not come in time.
    BodyTooSlow = "body_too_slow", REQUEST_TIMEOUT, Aborted;
    /// The timestamp is not above the purge floor.
    TimestampTooOld = "timestamp_too_old", CONFLICT, FailedPrecondition;
    /// It is there already, and otherwise than asked for.
    AlreadyExists = "already_exists", CONFLICT, AlreadyExists;
    /// Something stands in the way of what was asked for.
    Conflict = "conflict", CONFLICT, FailedPrecondition;
    /// One of the tables is being repaired.
    RepairUnderWay = "repair_under_way", CONFLICT, AlreadyExists;
    /// The key is too long.
    KeyTooLarge = "key_too_large", PAYLOAD_TOO_LARGE, InvalidArgument;
    /// The value is too long.
    ValueTooLarge = "value_too_large", PAYLOAD_TOO_LARGE, InvalidArgument;
    /// The batch has too many rows or bytes.
    BatchTooLarge = "batch_too_large", PAYLOAD_TOO_LARGE, InvalidArgument;
    /// The rows before this one fill the answer: it was not read.
    AnswerFull = "answer_full", PAYLOAD_TOO_LARGE, OutOfRange;
    /// The answer is longer than the client takes.
    AnswerTooLarge = "answer_too_large", PAYLOAD_TOO_LARGE, OutOfRange;
    /// The body is longer than any request may be.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, InvalidArgument;
    /// The message over gRPC is longer than any may be.
    MessageTooLarge = "message_too_large", PAYLOAD_TOO_LARGE, InvalidArgument;
    /// The body is not said to be JSON, or the message not to be Protobuf.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, InvalidArgument;
    /// The node does as much as it may.
    Overloaded = "overloaded", TOO_MANY_REQUESTS, ResourceExhausted;
    /// This release knows no conditional writes.
    ConditionUnsupported = "condition_unsupported", NOT_IMPLEMENTED, Unimplemented;
    /// Too few replicas are alive for the level.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, Unavailable;
    /// No node holds the table's rows yet.
    NoReplicas = "no_replicas", SERVICE_UNAVAILABLE, Unavailable;
    /// The node's clock can give no version.
    CannotStamp = "cannot_stamp", SERVICE_UNAVAILABLE, Unavailable;
    /// Too few replicas could answer a read.
    ReadFailed = "read_failed", SERVICE_UNAVAILABLE, Unavailable;
    /// The cluster cannot agree on a change now.
    NoMajority = "no_majority", SERVICE_UNAVAILABLE, Unavailable;
    /// A node that has to take part does not.
    NodeUnavailable = "node_unavailable", SERVICE_UNAVAILABLE, Unavailable;
    /// The node does not serve.
    NotServing = "not_serving", SERVICE_UNAVAILABLE, Unavailable;
    /// An operator drained the node, or it leaves the cluster.
    Drained = "drained", SERVICE_UNAVAILABLE, Unavailable;
    /// The node is about to stop.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, Unavailable;
    /// Too few replicas answered a read in time.
    ReadTimeout = "read_timeout", GATEWAY_TIMEOUT, DeadlineExceeded;
    /// Too few replicas acknowledged a write, but some may hold it.
    WriteUnknown = "write_unknown", GATEWAY_TIMEOUT, DeadlineExceeded;
    /// What a replica missed of a write could not be noted.
    WriteNotNoted = "write_not_noted", GATEWAY_TIMEOUT, DeadlineExceeded;
}
