//! DECOMMISSION, REMOVE, REPLACE and DRAIN: a node's place in its cluster.

use cube_client::admin::{Leaving, Member, Told};

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Tone};
use crate::session::Session;

pub(super) async fn decommission(session: &mut Session, node: &str) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.decommission(node).await?;
    Ok(begun(session, "DECOMMISSION", told))
}

pub(super) async fn remove(session: &mut Session, node: &str, accept_loss: bool) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.remove(node, accept_loss).await?;
    Ok(begun(session, "REMOVE", told))
}

pub(super) async fn replace(
    session: &mut Session,
    node: &str,
    with: &str,
    accept_loss: bool,
) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.replace(node, with, accept_loss).await?;
    Ok(begun(session, "REPLACE", told).fact("with", Cell::text(with)))
}

pub(super) async fn drain(session: &mut Session, node: &str, undo: bool) -> Result<Outcome, ShellError> {
    let told = session.admin().await?.drain(node, undo).await?;
    session.heard(&told.by);
    let line = match undo {
        true => format!("{node} takes requests of clients again"),
        false => format!("{node} takes no more requests of clients; DRAIN {node} UNDO has it take them again"),
    };
    Ok(Outcome::of("DRAIN").fact("node", Cell::text(node)).fact("drained", Cell::Bool(!undo)).line(Tone::Plain, line))
}

/// What was begun, and how far it is.
fn begun(session: &mut Session, command: &'static str, told: Told<Member>) -> Outcome {
    session.heard(&told.by);
    let Member { name, state, leaving, .. } = told.answer;
    let line = match &leaving {
        Some(leaving) => format!("{}; NODES tells how far it is", to_hand_over(&name, leaving)),
        None => format!("{name} has left the cluster"),
    };
    let partitions = leaving.map(|leaving| leaving.partitions);
    Outcome::of(command)
        .fact("node", Cell::text(name))
        .fact("state", Cell::text(state))
        .fact("partitionsLeft", Cell::maybe(partitions, Cell::Count))
        .line(Tone::Plain, line)
}

/// How far a member is that leaves.
pub(super) fn to_hand_over(name: &str, leaving: &Leaving) -> String {
    let Leaving { by, partitions, hints, marks } = leaving;
    let mut rest = vec![format!("{partitions} partitions")];
    rest.extend(hints.map(|hints| format!("{hints} hints")));
    rest.extend(marks.map(|marks| format!("{marks} dirty marks")));
    match by.as_str() {
        "REMOVE" => format!("{name} is being removed: {} have yet to be moved", rest.join(", ")),
        _ => format!("{name} leaves the cluster: {} have yet to be handed over", rest.join(", ")),
    }
}
