//! The control plane as a whole, several of it in one process, and its parts on a real disk.

mod cluster;
mod commands;
mod forming;
mod leaving;
mod machine;
mod majority;
mod moving;
mod restart;
mod storage;

use cube_replication::topology::Addresses;
use cube_storage::model::{NodeId, PartitionBits};

use super::{Command, Founding, NewMember};
use crate::identity::{ClusterId, InstanceId};

pub(super) const CLUSTER: ClusterId = ClusterId(7);

pub(super) fn bits() -> PartitionBits {
    PartitionBits::new(3).unwrap()
}

/// Node `n` as it describes itself: `node-n`, in rack `rn`.
pub(super) fn newcomer(n: u16) -> NewMember {
    let addresses = Addresses { peer: format!("node-{n}:7401"), ..Addresses::default() };
    NewMember {
        name: format!("node-{n}"),
        data_center: "dc1".into(),
        rack: format!("r{n}").as_str().into(),
        weight: 1,
        addresses,
        instance: InstanceId(u128::from(n) + 1_000),
    }
}

pub(super) fn founding() -> Founding {
    Founding { cluster: CLUSTER, merkle_key: *b"sixteen bytes it", partition_bits: bits(), member: newcomer(0) }
}

pub(super) fn create_table(name: &str) -> Command {
    Command::CreateTable {
        keyspace: "default".to_owned(),
        name: name.to_owned(),
        prefix_index: true,
        settings: Default::default(),
        if_not_exists: false,
    }
}

pub(super) fn has_table(control: &super::Control, name: &str) -> bool {
    control.current().schema().find("default", name).is_ok()
}

pub(super) fn node(n: u16) -> NodeId {
    NodeId(n)
}
