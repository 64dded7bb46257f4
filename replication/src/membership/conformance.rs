//! What every membership promises, as laws that run on each of them: scripted, simulated, gossip.

use cube_storage::model::NodeId;

use super::Membership;

/// A membership to be tested: the view of one node on a small cluster that is up.
pub trait Harness {
    /// The view.
    fn membership(&self) -> &dyn Membership;

    /// The node whose view it is, and two others.
    fn nodes(&self) -> (NodeId, [NodeId; 2]);

    /// Makes a node look dead to the others, be it by stopping it or by saying so.
    fn kill(&mut self, node: NodeId);

    /// Brings it back.
    fn revive(&mut self, node: NodeId);

    /// Waits until what happened must have been noticed.
    fn settle(&mut self);
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{law}: {detail}")]
pub struct Broken {
    /// The law.
    pub law: &'static str,
    /// What happened instead.
    pub detail: String,
}

type Law<H> = fn(&mut H) -> Result<(), String>;

/// Runs every law, each on a cluster of its own.
pub fn check<H: Harness>(mut cluster: impl FnMut() -> H) -> Result<(), Broken> {
    let laws: [(&'static str, Law<H>); 3] = [
        ("nodes that run are believed alive", the_living),
        ("a node that is gone is noticed, and so is its return", gone_and_back),
        ("a node always believes in itself", itself),
    ];
    laws.into_iter().try_for_each(|(law, run)| {
        let mut harness = cluster();
        harness.settle();
        run(&mut harness).map_err(|detail| Broken { law, detail })
    })
}

fn believed<H: Harness>(harness: &H, node: NodeId, alive: bool) -> Result<(), String> {
    let told = harness.membership().is_alive(node);
    if told == alive { Ok(()) } else { Err(format!("{node} is believed {}", if told { "alive" } else { "dead" })) }
}

fn the_living<H: Harness>(harness: &mut H) -> Result<(), String> {
    let (me, others) = harness.nodes();
    [me].iter().chain(&others).try_for_each(|node| believed(harness, *node, true))
}

fn gone_and_back<H: Harness>(harness: &mut H) -> Result<(), String> {
    let (_, [gone, stays]) = harness.nodes();
    for _ in 0..2 {
        harness.kill(gone);
        harness.settle();
        believed(harness, gone, false)?;
        believed(harness, stays, true)?;
        harness.revive(gone);
        harness.settle();
        believed(harness, gone, true)?;
    }
    Ok(())
}

fn itself<H: Harness>(harness: &mut H) -> Result<(), String> {
    let (me, others) = harness.nodes();
    for node in others {
        harness.kill(node);
    }
    harness.settle();
    believed(harness, me, true)
}
