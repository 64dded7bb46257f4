//! The node in its cluster: who it is, Raft, who is alive, and the background workers.

use cube_replication::worker::{WorkerState, WorkerStatus};

use super::figures::{GossipFigures, MemberFigures, NodeFigures};
use super::page::{Page, Written, bytes, family, flag, from_ms, label, number, seconds, whole};
use crate::control::ControlStatus;

pub(super) fn write_node(page: &mut Page<'_>, node: &NodeFigures) -> Written {
    let NodeFigures { name, cluster, data_center, rack, state, serves, warnings } = node;
    let told = [("name", name), ("cluster", cluster), ("data_center", data_center), ("rack", rack), ("state", state)];
    let labels = told.map(|(label, value)| (label, value.clone())).to_vec();
    page.info(family("cube_node", "Who this node is, and how far it has come as a member"), &labels)?;
    page.value(family("cube_node_serving", "Whether this node serves, as its health says"), flag(*serves))?;
    page.value(family("cube_node_warnings", "Warnings of this node's health"), number(*warnings))
}

pub(super) fn write_raft(page: &mut Page<'_>, raft: &ControlStatus) -> Written {
    page.value(family("cube_raft_leads", "Whether this node leads"), flag(raft.leads))?;
    page.value(family("cube_raft_has_leader", "Whether this node knows a leader"), flag(raft.leader.is_some()))?;
    page.value(
        family("cube_raft_has_quorum", "Whether the cluster can agree on changes, as far as this node knows"),
        flag(raft.has_quorum),
    )?;
    page.value(family("cube_raft_term", "Raft's term: it grows with every election"), whole(raft.term))?;
    let entries = [("last", raft.last_log), ("applied", raft.applied), ("snapshot", raft.snapshot)];
    page.gauge(
        family(
            "cube_raft_log_index",
            "Entries of Raft's log: the last one, the last one applied, the last one in a snapshot",
        ),
        entries.map(|(what, index)| (label("entry", what), whole(index.unwrap_or(0)))),
    )?;
    let members = [("voter", raft.voters.len()), ("learner", raft.learners.len())];
    page.gauge(
        family("cube_raft_members", "Members of Raft, by whether they vote"),
        members.map(|(role, count)| (label("role", role), number(count))),
    )?;
    let age = raft.last_quorum_ack_age.map(|age| (Vec::new(), age.as_secs_f64()));
    page.gauge(seconds("cube_raft_quorum_age", "How long ago a majority was last heard by the leader"), age)?;
    page.value(
        family("cube_raft_stopped", "Whether this node's Raft has stopped until a restart"),
        flag(raft.stopped.is_some()),
    )
}

pub(super) fn write_members(page: &mut Page<'_>, members: &[MemberFigures], gossip: GossipFigures) -> Written {
    page.gauge(
        family("cube_member_alive", "Whether a member is alive, as this node observes it"),
        members.iter().map(|member| (label("member", &member.name), flag(member.alive))),
    )?;
    page.gauge(
        seconds("cube_member_clock_offset", "How far a member's clock is ahead of this node's"),
        members.iter().filter_map(|member| {
            let offset_ms = i32::try_from(member.clock_offset_ms?).unwrap_or(i32::MAX);
            Some((label("member", &member.name), f64::from(offset_ms) / 1_000.0))
        }),
    )?;
    page.gauge(
        family(
            "cube_member_leaving_partitions",
            "Partitions of a member that leaves the cluster which have yet to be moved",
        ),
        members.iter().filter_map(|member| Some((label("member", &member.name), whole(member.to_be_moved?)))),
    )?;
    page.gauge(
        family("cube_member_drained", "Whether an operator has a member take no requests of clients"),
        members.iter().map(|member| (label("member", &member.name), flag(member.is_drained))),
    )?;
    let datagrams = [("sent", gossip.sent), ("received", gossip.received), ("failed", gossip.failed)];
    page.counter(
        family("cube_gossip_datagrams", "Datagrams of gossip, by what became of them"),
        datagrams.map(|(outcome, count)| (label("outcome", outcome), count)),
    )?;
    let held = [("sent", gossip.sent_bytes), ("received", gossip.received_bytes)];
    page.counter(
        bytes("cube_gossip", "Bytes of gossip, by direction"),
        held.map(|(direction, count)| (label("direction", direction), count)),
    )?;
    page.value(family("cube_gossip_conflicts", "Node ids under which several processes live"), whole(gossip.conflicts))
}

pub(super) fn write_workers(page: &mut Page<'_>, workers: &[WorkerStatus], now_ms: u64) -> Written {
    const STATES: [(WorkerState, &str); 6] = [
        (WorkerState::Running, "running"),
        (WorkerState::Idle, "idle"),
        (WorkerState::Throttled, "throttled"),
        (WorkerState::BackingOff, "backing_off"),
        (WorkerState::Paused, "paused"),
        (WorkerState::Stopped, "stopped"),
    ];
    let states = workers.iter().flat_map(|worker| {
        STATES.iter().map(|(state, name)| {
            let labels = vec![("worker", worker.name.clone()), ("state", (*name).to_owned())];
            (labels, flag(worker.state == *state))
        })
    });
    page.gauge(family("cube_worker_state", "What a background worker does now: 1 for that state"), states)?;
    let named = |worker: &WorkerStatus| label("worker", &worker.name);
    page.counter(
        family("cube_worker_steps", "Steps of a background worker"),
        workers.iter().map(|worker| (named(worker), worker.steps)),
    )?;
    page.counter(
        family("cube_worker_errors", "Steps of a background worker that failed"),
        workers.iter().map(|worker| (named(worker), worker.errors)),
    )?;
    page.gauge(
        family("cube_worker_errors_in_a_row", "Steps that failed since the last one that did not"),
        workers.iter().map(|worker| (named(worker), f64::from(worker.consecutive_errors))),
    )?;
    page.gauge(
        seconds("cube_worker_last_progress_age", "How long ago a background worker last did something"),
        workers
            .iter()
            .filter_map(|worker| Some((named(worker), from_ms(now_ms.saturating_sub(worker.last_progress_ms?))))),
    )
}
