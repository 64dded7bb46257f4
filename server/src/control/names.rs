//! What names, places and settings may be. They end up in file names, metrics and statements, so they are plain.

use cube_replication::catalog::{Hedge, TableSettings};
use cube_replication::topology::Addresses;
use cube_storage::SyncPolicy;

use super::command::NewMember;
use super::refusal::Refusal;

/// The longest name of a member, keyspace, table, data center or rack.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest address: a host name has at most 253 bytes, and a port five.
const ADDRESS_BYTES_MAX: usize = 259;
/// The longest time between two syncs: past it, a loss of power takes back more than anybody would call a moment.
const SYNC_INTERVAL_MS_MAX: u32 = 60_000;

/// A name of a keyspace or table.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let starts_well = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    if plain && starts_well && name.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(Refusal::BadName { name: shortened(name) })
    }
}

/// The name of a member: often that of its host. Whatever `config/check.rs` lets a node start with may also join.
fn check_member_name(name: &str) -> Result<(), Refusal> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if plain && !name.is_empty() && !name.starts_with(['.', '-']) && name.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(Refusal::BadMemberName { name: shortened(name) })
    }
}

/// The name of a data center or a rack. Those come from providers: `eu-west-1a`, `1.2`.
fn check_place(place: &str) -> Result<(), Refusal> {
    let plain = place.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if plain && !place.is_empty() && place.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(Refusal::BadPlace { place: shortened(place) })
    }
}

/// The addresses of a member: the peer address has to be there, the others may be empty where nothing listens.
pub(super) fn check_addresses(addresses: &Addresses) -> Result<(), Refusal> {
    if addresses.peer.is_empty() {
        return Err(Refusal::BadAddress { address: String::new() });
    }
    let Addresses { peer, grpc, http, gossip } = addresses;
    for address in [peer, grpc, http, gossip] {
        let is_one = address.is_empty()
            || (address.len() <= ADDRESS_BYTES_MAX
                && address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()));
        if !is_one {
            return Err(Refusal::BadAddress { address: shortened(address) });
        }
    }
    Ok(())
}

/// Everything a node says of itself.
pub(super) fn check_member(member: &NewMember) -> Result<(), Refusal> {
    check_member_name(&member.name)?;
    check_place(member.data_center.as_str())?;
    check_place(member.rack.as_str())?;
    check_addresses(&member.addresses)
}

/// When writes are acknowledged.
pub(super) fn check_sync(sync: SyncPolicy) -> Result<(), Refusal> {
    match sync {
        SyncPolicy::Sync => Ok(()),
        SyncPolicy::Interval { every_ms } if (1..=SYNC_INTERVAL_MS_MAX).contains(&every_ms) => Ok(()),
        SyncPolicy::Interval { .. } => Err(bad_setting("durability", "an interval is 1 ms to 60 s")),
    }
}

/// What an operator chooses of a table.
pub(super) fn check_settings(settings: &TableSettings) -> Result<(), Refusal> {
    if settings.read_repair_percent > 100 {
        return Err(bad_setting("read_repair_chance", "at most 100 percent"));
    }
    if settings.default_ttl_ms.is_some_and(|ttl_ms| ttl_ms <= 0) {
        return Err(bad_setting("default_ttl", "more than nothing, or none at all"));
    }
    if settings.hedge == (Hedge::After { ms: 0 }) {
        return Err(bad_setting("hedge", "a time of at least 1 ms, p99, or off"));
    }
    Ok(())
}

fn bad_setting(setting: &str, reason: &str) -> Refusal {
    Refusal::BadSetting { setting: setting.to_owned(), reason: reason.to_owned() }
}

/// A refusal is kept in the log's memory: what it repeats has a bound.
fn shortened(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX + 1).collect()
}
