//! What the nodes do now: what they counted between two looks, with what they tell of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use cube_client::admin::{Hints, Member};
use futures::future::join;
use futures::future::join_all;
use tokio::time::Instant;

use super::scrape::{self, Figures, Histogram, InSync};
use crate::error::ShellError;
use crate::session::Session;

/// A node that takes longer is shown without figures until the next look.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// One look at all nodes.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Who told which nodes there are.
    pub(super) by: String,
    pub(super) nodes: Vec<NodeLook>,
}

#[derive(Clone, Debug)]
pub(super) struct NodeLook {
    member: Member,
    figures: Option<(Instant, Figures)>,
    hints: Option<Hints>,
}

impl Look {
    /// Asks all nodes at the same time.
    pub(super) async fn take(session: &mut Session) -> Result<Self, ShellError> {
        session.begin();
        let told = session.members().await?;
        let client = session.client().await?;
        let nodes = told.answer.into_iter().map(|member| {
            let admin = client.admin().only(&member.grpc).timeout(ANSWER_MAX);
            async move {
                if !member.alive {
                    return NodeLook { member, figures: None, hints: None };
                }
                let (figures, hints) = join(scrape::figures(&admin), admin.hints()).await;
                NodeLook { member, figures, hints: hints.ok().map(|told| told.answer) }
            }
        });
        let by = session.name_of(&told.by);
        Ok(Self { by, nodes: join_all(nodes).await })
    }
}

/// Requests of one kind.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Pace {
    pub(super) per_second: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

impl Pace {
    fn of(histogram: &Histogram, seconds: f64) -> Self {
        Self {
            per_second: rate(histogram.count(), seconds),
            p50_ms: histogram.percentile_ms(50),
            p99_ms: histogram.percentile_ms(99),
        }
    }
}

/// What one node does. Of figures that it does not tell there are none.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct NodeNow {
    pub(super) name: String,
    pub(super) alive: bool,
    pub(super) state: String,
    pub(super) load_percent: Option<f64>,
    pub(super) in_flight: Option<u64>,
    pub(super) reads: Option<Pace>,
    pub(super) writes: Option<Pace>,
    pub(super) pages_per_second: Option<f64>,
    pub(super) errors_per_second: Option<f64>,
    pub(super) repairs_per_second: Option<f64>,
    /// Of its hints for others.
    pub(super) replayed_per_second: Option<f64>,
    pub(super) in_sync: InSync,
    /// What it keeps for others.
    pub(super) hints_kept: Option<u64>,
    /// What others keep for it.
    pub(super) hints_for: u64,
    pub(super) dirty_ranges: u64,
}

/// What the cluster does.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Now {
    pub(super) by: String,
    pub(super) nodes: Vec<NodeNow>,
    pub(super) reads: Pace,
    pub(super) writes: Pace,
    pub(super) pages_per_second: f64,
    pub(super) errors_per_second: f64,
    /// Nodes that live and do not tell what they do.
    pub(super) untold: Vec<String>,
}

impl Now {
    /// From two looks, one after the other.
    pub(super) fn between(before: &Look, look: &Look) -> Self {
        let (mut hints_for, mut dirty) = (BTreeMap::<&String, u64>::new(), BTreeMap::<&String, u64>::new());
        for kept in look.nodes.iter().filter_map(|node| node.hints.as_ref()) {
            kept.by_node.iter().for_each(|(name, count)| *hints_for.entry(name).or_default() += count);
            kept.dirty_ranges.iter().for_each(|(name, count)| *dirty.entry(name).or_default() += count);
        }
        let (mut reads, mut writes) = (Histogram::default(), Histogram::default());
        let (mut pages_per_second, mut errors_per_second, mut seconds) = (0.0, 0.0, 0.0_f64);
        let mut nodes = Vec::new();
        for node in &look.nodes {
            let member = &node.member;
            let mut now = NodeNow {
                name: member.name.clone(),
                alive: member.alive,
                state: member.state.clone(),
                load_percent: member.load_percent.filter(|_| member.alive),
                in_flight: member.requests_in_flight.filter(|_| member.alive),
                reads: None,
                writes: None,
                pages_per_second: None,
                errors_per_second: None,
                repairs_per_second: None,
                replayed_per_second: None,
                in_sync: node.figures.as_ref().map(|(_, figures)| figures.in_sync).unwrap_or_default(),
                hints_kept: node.hints.as_ref().map(|hints| hints.total),
                hints_for: hints_for.get(&member.name).copied().unwrap_or_default(),
                dirty_ranges: dirty.get(&member.name).copied().unwrap_or_default(),
            };
            let earlier = before.nodes.iter().find(|other| other.member.id == member.id);
            let earlier = earlier.and_then(|earlier| earlier.figures.as_ref());
            if let (Some((from, old)), Some((to, new))) = (earlier, &node.figures) {
                let time = to.saturating_duration_since(*from).as_secs_f64().max(f64::MIN_POSITIVE);
                let (read, written) = (new.reads.since(&old.reads), new.writes.since(&old.writes));
                let paged = new.pages.since(&old.pages);
                // A node that started anew counts from zero.
                let of = |new: u64, old: u64| rate(if new < old { new } else { new - old }, time);
                now.reads = Some(Pace::of(&read, time));
                now.writes = Some(Pace::of(&written, time));
                now.pages_per_second = Some(rate(paged.count(), time));
                now.errors_per_second = Some(of(new.errors, old.errors));
                now.repairs_per_second = Some(of(new.repairs, old.repairs));
                now.replayed_per_second = Some(of(new.replayed, old.replayed));
                (reads, writes) = (reads.and(&read), writes.and(&written));
                pages_per_second += now.pages_per_second.unwrap_or_default();
                errors_per_second += now.errors_per_second.unwrap_or_default();
                seconds = seconds.max(time);
            }
            nodes.push(now);
        }
        let untold = nodes.iter().filter(|node| node.alive && node.reads.is_none());
        let seconds = seconds.max(f64::MIN_POSITIVE);
        Self {
            by: look.by.clone(),
            untold: untold.map(|node| node.name.clone()).collect(),
            nodes,
            reads: Pace::of(&reads, seconds),
            writes: Pace::of(&writes, seconds),
            pages_per_second,
            errors_per_second,
        }
    }

    pub(super) fn alive(&self) -> usize {
        self.nodes.iter().filter(|node| node.alive).count()
    }

    pub(super) fn pending_hints(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.hints_kept).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn rate(count: u64, seconds: f64) -> f64 {
    if count == 0 { 0.0 } else { count as f64 / seconds }
}
