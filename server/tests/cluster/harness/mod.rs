//! What the scenarios stand on: nodes as processes, and the ways to hurt them.

pub(crate) mod address;
pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod slots;
pub(crate) mod time;

pub(crate) use self::api::Api;
pub(crate) use self::cluster::Cluster;
pub(crate) use self::network::Network;
