//! Whom to ask again: seeds and lost peers, so that a healed partition, a restarted cluster and nodes whose addresses
//! changed find each other without an operator.
//!
//! The protocol asks seeds too, but resolves their names once a minute and cannot be given others later.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Seeds and lost peers asked in one round; the others are asked in the next ones.
const ASKED_MAX: usize = 4;

/// Addresses of one name that are asked.
const ADDRESSES_MAX: usize = 8;

/// While others are alive, names are resolved once in so many rounds.
const ROUNDS_PER_RESOLVE: u64 = 10;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to ask in a round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) addresses: Vec<SocketAddr>,
    /// Names to be resolved first.
    pub(super) names: Vec<String>,
}

/// Takes turns among seeds and lost peers, and leaves out those that are alive.
pub(super) fn to_ask(
    round: u64,
    seeds: &[String],
    lost: &BTreeSet<SocketAddr>,
    alive: &BTreeSet<SocketAddr>,
    own: SocketAddr,
) -> Asked {
    let is_due = |address: &SocketAddr| *address != own && !alive.contains(address);
    let mut addresses: BTreeSet<SocketAddr> = lost.iter().copied().filter(is_due).collect();
    let mut names = Vec::new();
    for seed in seeds {
        match seed.parse() {
            Ok(address) => addresses.extend(Some(address).filter(is_due)),
            Err(_) => names.push(seed.clone()),
        }
    }
    // A name does not say whether it stands for somebody who is alive, so it is not asked for ever at this pace.
    let rounds_per_resolve = if alive.is_empty() { 1 } else { ROUNDS_PER_RESOLVE };
    if !round.is_multiple_of(rounds_per_resolve) {
        names.clear();
    }
    Asked { addresses: turn(round, addresses.into_iter()), names: turn(round / rounds_per_resolve, names.into_iter()) }
}

/// Those whose turn it is, so that everybody is asked in time.
fn turn<T>(round: u64, all: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let turns = all.len().div_ceil(ASKED_MAX).max(1);
    let this = usize::try_from(round).unwrap_or_default() % turns;
    all.skip(this * ASKED_MAX).take(ASKED_MAX).collect()
}

/// The addresses of a name; none if it is unknown.
pub(super) async fn resolve(name: String) -> Vec<SocketAddr> {
    match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&name)).await {
        Ok(Ok(addresses)) => addresses.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "a seed's name is not known");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(name, "the name service did not answer for a seed in time");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn addresses(ports: impl IntoIterator<Item = u16>) -> BTreeSet<SocketAddr> {
        ports.into_iter().map(address).collect()
    }

    #[test]
    fn own_address_and_the_living_are_not_asked() {
        let seeds = [1, 2, 3].map(|port| address(port).to_string());
        let asked = to_ask(0, &seeds, &addresses([4]), &addresses([2]), address(1));
        assert_eq!(asked.addresses, [address(3), address(4)]);
    }

    #[test]
    fn everybody_is_asked_in_turn_and_never_too_many_at_once() {
        let lost = addresses(1..=10);
        let mut seen = BTreeSet::new();
        for round in 0..3 {
            let asked = to_ask(round, &[], &lost, &BTreeSet::new(), address(99)).addresses;
            assert!(asked.len() <= ASKED_MAX);
            seen.extend(asked);
        }
        assert_eq!(seen, lost);
    }

    #[test]
    fn names_are_resolved_in_every_round_by_who_is_alone_and_now_and_then_by_others() {
        let seeds = ["seed.example:7402".to_owned()];
        let rounds_asked = |alive: &BTreeSet<SocketAddr>| {
            let names = |round: &u64| !to_ask(*round, &seeds, &BTreeSet::new(), alive, address(1)).names.is_empty();
            (0..20).filter(names).count()
        };
        assert_eq!(rounds_asked(&BTreeSet::new()), 20);
        assert_eq!(rounds_asked(&addresses([2])), 2);
    }
}
