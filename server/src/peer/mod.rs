//! Between nodes, over gRPC: requests of the replication layer, and calls of the control plane.
//!
//! A request's way: [`GrpcTransport`] (`transport.rs`) puts it into the lane of its peer (`lane.rs`), whose connection
//! (`link.rs`) sends all that waits in one frame; at the peer [`PeerServer`] (`server.rs`) has let that connection in
//! (`identity.rs`), reads the frame and has each request carried out (`serving.rs`); replies gather (`conversation.rs`)
//! and come back many in a frame. Calls (`call/`) are single questions, also from nodes that are no members yet.
//!
//! What it keeps true: nothing here waits without a bound in number, bytes and time; one peer or lane that is slow never
//! holds up another; a request is told its reply or its failure once. Frames and handshake: docs/peer-protocol.md.

mod call;
mod conversation;
mod identity;
mod lane;
mod link;
mod readers;
mod server;
mod serving;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod transport;

pub use self::call::{CallError, CallRefused, Caller, Calls, PeerCaller};
pub use self::conversation::Replies;
pub use self::identity::{CheckPeer, HandshakeRefused, Negotiated, PeerIdentity, RefusalReason};
pub use self::server::{Membership, OnPeer, PeerServer, PeerServerError, PeerServiceParts};
pub use self::settings::PeerSettings;
pub use self::status::{ConnectionStatus, InboundStatus, LaneStatus, PeerStatus};
pub use self::transport::{AddressBook, GrpcTransport, GrpcTransportParts, OnPing, PingSample};
