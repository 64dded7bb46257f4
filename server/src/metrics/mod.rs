//! The numbers of a node for Prometheus, at `/metrics`. `docs/metrics.md` lists them.
//!
//! ```text
//! requests.rs  what is counted on the way of every request      figures.rs  what the rest of the node tells when asked
//! page.rs      how a family of metrics is written               others  the families of each part of the node
//! ```
//!
//! Invariant: a request pays for two clock readings and two additions in memory that its thread shares with few others.
//! Everything else is counted by the parts themselves, or read when a page is asked for.

mod cluster;
mod figures;
mod hints;
mod links;
mod page;
mod process;
mod reads;
mod requests;
mod store;
mod sync;
mod traces;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub use self::figures::{Figures, GossipFigures, MemberFigures, NodeFigures, SpaceLeft, StoreFigures, SyncFigures};
use self::page::Page;
pub use self::requests::{Meter, Operation, PortFigures};

/// What a page of metrics is: the text that Prometheus asks for first, and reads without being told.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything there is to tell at one moment.
pub(crate) fn write(figures: Figures, counted: requests::Counted) -> Result<String, fmt::Error> {
    write_by(Everything { figures, counted })
}

/// What there is to tell of a node that is no member of its cluster yet.
pub(crate) fn write_starting(node: NodeFigures) -> Result<String, fmt::Error> {
    write_by(Starting { node })
}

fn write_by(told: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(told));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Everything {
    figures: Figures,
    counted: requests::Counted,
}

impl Collector for Everything {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (figures, page) = (&self.figures, &mut Page::new(encoder));
        process::write(page)?;
        cluster::write_node(page, &figures.node)?;
        requests::write(page, &self.counted, figures)?;
        reads::write(page, &figures.tables)?;
        if let Some(handoff) = &figures.handoff {
            hints::write(page, handoff)?;
        }
        sync::write(page, figures.sync.as_ref())?;
        store::write(page, &figures.store)?;
        store::write_engine(page, &figures.engine)?;
        if let Some(raft) = &figures.raft {
            cluster::write_raft(page, raft)?;
        }
        cluster::write_members(page, &figures.members, figures.gossip)?;
        cluster::write_workers(page, &figures.workers, figures.now_ms)?;
        links::write(page, &figures.peers, &figures.inbound)?;
        traces::write(page, figures.traces)
    }
}

#[derive(Debug)]
struct Starting {
    node: NodeFigures,
}

impl Collector for Starting {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let page = &mut Page::new(encoder);
        process::write(page)?;
        cluster::write_node(page, &self.node)
    }
}
