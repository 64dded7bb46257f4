//! What a fake node answers of its cluster.

use cube_proto::v1;
use cube_proto::v1::admin_server::Admin;
use tonic::{Code, Request, Response, Status};

use super::{Answer, FakeNode, detail, status_of};

/// What this node was given to tell. A node that was given nothing knows no such call.
fn of_this_node<T: Clone>(told: Option<&T>) -> Answer<T> {
    told.cloned().map(Response::new).ok_or_else(|| Status::unimplemented("not served"))
}

impl FakeNode {
    /// What this node keeps for others, who do not answer.
    fn hints_kept(&self) -> v1::HintsReply {
        let node_hints = self.0.hints.lock().unwrap().clone();
        let of_node = |hints: u64| v1::NodeHints {
            hints,
            state: "BACKING_OFF".into(),
            last_error: Some("it does not answer".into()),
            ..Default::default()
        };
        let nodes = node_hints.iter().map(|(name, hints)| (name.clone(), of_node(*hints))).collect();
        v1::HintsReply { total_hints: node_hints.values().sum(), node_hints, nodes, ..Default::default() }
    }

    /// A look at the repair: the last one stays.
    fn look(&self, asked: String, id: &str) -> Answer<v1::Repair> {
        self.0.repairs_asked.lock().unwrap().push(asked);
        if let Some(detail) = &*self.0.repair_refusal.lock().unwrap() {
            return Err(status_of(detail));
        }
        let mut looks = self.0.repair.lock().unwrap();
        let told = if looks.len() > 1 { looks.remove(0) } else { of_this_node(looks.first())?.into_inner() };
        match id {
            "" => Ok(Response::new(told)),
            id if told.id == id => Ok(Response::new(told)),
            _ => Err(status_of(&detail("unknown_repair", Code::NotFound, "there is no such repair"))),
        }
    }
}

impl FakeNode {
    fn named(&self, name: &str) -> Result<v1::Node, Status> {
        let nodes = self.0.nodes.lock().unwrap();
        let node = nodes.iter().find(|node| node.name == name).cloned();
        node.ok_or_else(|| Status::not_found(format!("no member of the cluster is named {name:?}")))
    }

    /// Leaves, and has some to hand over.
    fn leaving(&self, name: &str, by: &str) -> Answer<v1::Node> {
        let leaving = v1::Leaving { by: by.to_owned(), partitions: 3, hints: Some(2), marks: Some(1) };
        let node = self.named(name)?;
        Ok(Response::new(v1::Node { state: "LEAVING".to_owned(), leaving: Some(leaving), ..node }))
    }
}

#[tonic::async_trait]
impl Admin for FakeNode {
    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Answer<v1::NodesReply> {
        self.judge_admin().await;
        Ok(Response::new(v1::NodesReply { nodes: self.0.nodes.lock().unwrap().clone() }))
    }

    async fn topology(&self, _: Request<v1::TopologyRequest>) -> Answer<v1::TopologyReply> {
        self.judge_admin().await;
        let nodes = self.0.nodes.lock().unwrap().clone();
        let partition = v1::Partition { replicas: nodes.iter().map(|node| node.id).collect(), ..Default::default() };
        let placement = v1::Placement {
            replication: "simple(3)".into(),
            keyspaces: vec!["default".into()],
            partitions: vec![partition.clone(), partition],
        };
        let reply = v1::TopologyReply { epoch: 7, partition_bits: 1, nodes, placements: vec![placement] };
        Ok(Response::new(reply))
    }

    async fn decommission_node(&self, request: Request<v1::DecommissionNodeRequest>) -> Answer<v1::Node> {
        self.judge_admin().await;
        self.leaving(&request.get_ref().node, "DECOMMISSION")
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::Node> {
        self.judge_admin().await;
        self.leaving(&request.get_ref().node, "REMOVE")
    }

    async fn replace_node(&self, request: Request<v1::ReplaceNodeRequest>) -> Answer<v1::Node> {
        self.judge_admin().await;
        self.leaving(&request.get_ref().node, "REMOVE")
    }

    async fn drain_node(&self, request: Request<v1::DrainNodeRequest>) -> Answer<v1::DrainNodeReply> {
        self.judge_admin().await;
        self.named(&request.get_ref().node)?;
        Ok(Response::new(v1::DrainNodeReply {}))
    }

    async fn hints(&self, _: Request<v1::HintsRequest>) -> Answer<v1::HintsReply> {
        self.judge_admin().await;
        Ok(Response::new(self.hints_kept()))
    }

    async fn replication(&self, _: Request<v1::ReplicationRequest>) -> Answer<v1::ReplicationReply> {
        self.judge_admin().await;
        of_this_node(self.0.syncs.lock().unwrap().get(&self.1))
    }

    async fn scrub(&self, request: Request<v1::ScrubRequest>) -> Answer<v1::ScrubReply> {
        self.judge_admin().await;
        let mut scrub = of_this_node(self.0.scrubs.lock().unwrap().get(&self.1))?.into_inner();
        if request.into_inner().now {
            scrub.state = "ON_DEMAND".into();
        }
        Ok(Response::new(scrub))
    }

    async fn schema(&self, _: Request<v1::SchemaRequest>) -> Answer<v1::SchemaReply> {
        self.judge_admin().await;
        Ok(Response::new(v1::SchemaReply { keyspaces: self.schema_here() }))
    }

    async fn create_keyspace(&self, request: Request<v1::CreateKeyspaceRequest>) -> Answer<v1::ChangeReply> {
        let request = request.into_inner();
        let mut schema = self.0.schema.lock().unwrap();
        let changed = !schema.iter().any(|known| known.name == request.keyspace);
        if changed {
            schema.push(v1::Keyspace { name: request.keyspace, options: request.options, tables: Vec::new() });
        }
        Ok(Response::new(v1::ChangeReply { changed }))
    }

    async fn alter_keyspace(&self, _: Request<v1::AlterKeyspaceRequest>) -> Answer<v1::ChangeReply> {
        Err(status_of(&detail("no_majority", Code::Unavailable, "no majority of the nodes can be reached")))
    }

    async fn drop_keyspace(&self, request: Request<v1::DropKeyspaceRequest>) -> Answer<v1::ChangeReply> {
        let name = request.into_inner().keyspace;
        self.0.schema.lock().unwrap().retain(|known| known.name != name);
        Ok(Response::new(v1::ChangeReply { changed: true }))
    }

    async fn create_table(&self, request: Request<v1::CreateTableRequest>) -> Answer<v1::ChangeReply> {
        let request = request.into_inner();
        let mut schema = self.0.schema.lock().unwrap();
        let Some(keyspace) = schema.iter_mut().find(|known| known.name == request.keyspace) else {
            return Err(status_of(&detail("unknown_keyspace", Code::NotFound, "there is no such keyspace")));
        };
        keyspace.tables.push(v1::Table { name: request.table, options: request.options });
        Ok(Response::new(v1::ChangeReply { changed: true }))
    }

    async fn alter_table(&self, _: Request<v1::AlterTableRequest>) -> Answer<v1::ChangeReply> {
        Ok(Response::new(v1::ChangeReply { changed: true }))
    }

    async fn drop_table(&self, _: Request<v1::DropTableRequest>) -> Answer<v1::ChangeReply> {
        Ok(Response::new(v1::ChangeReply { changed: true }))
    }

    async fn start_repair(&self, request: Request<v1::StartRepairRequest>) -> Answer<v1::Repair> {
        let v1::StartRepairRequest { keyspace, table, dry_run } = request.into_inner();
        let of = [keyspace, table].map(Option::unwrap_or_default).join(".");
        self.look(format!("{} starts {of}{}", self.1, if dry_run { " dry" } else { "" }), "")
    }

    async fn list_repairs(&self, _: Request<v1::ListRepairsRequest>) -> Answer<v1::RepairsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get_repair(&self, request: Request<v1::GetRepairRequest>) -> Answer<v1::Repair> {
        let id = request.into_inner().id;
        self.look(format!("{} shows {id}", self.1), &id)
    }

    async fn cancel_repair(&self, request: Request<v1::CancelRepairRequest>) -> Answer<v1::Repair> {
        let id = request.into_inner().id;
        let told = self.look(format!("{} cancels {id}", self.1), &id)?.into_inner();
        Ok(Response::new(v1::Repair { state: "CANCELLED".into(), ..told }))
    }

    async fn replay_hints(&self, _: Request<v1::HintOrder>) -> Answer<v1::HintsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn pause_hints(&self, _: Request<v1::HintOrder>) -> Answer<v1::HintsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn resume_hints(&self, _: Request<v1::HintOrder>) -> Answer<v1::HintsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn health(&self, _: Request<v1::HealthRequest>) -> Answer<v1::HealthReply> {
        Err(Status::unimplemented("not needed"))
    }

    /// Each node holds all rows of a keyspace with three replicas, and votes.
    async fn cluster_health(&self, _: Request<v1::ClusterHealthRequest>) -> Answer<v1::ClusterHealthReply> {
        self.judge_admin().await;
        let nodes = self.0.nodes.lock().unwrap().clone();
        let (alive, dead): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.alive);
        let required = nodes.len() / 2 + 1;
        let lost = |alive: usize| v1::LostLevels {
            without_quorum: if alive < required { 256 } else { 0 },
            ..Default::default()
        };
        let keyspace = v1::KeyspaceHealth {
            name: "default".into(),
            replication: "simple(3)".into(),
            partitions: 256,
            lost: Some(lost(alive.len())),
        };
        let one_more = alive.iter().filter(|_| alive.len() == required).map(|node| v1::OneMoreDied {
            node: node.name.clone(),
            keyspaces: vec![v1::KeyspaceLoss { name: "default".into(), lost: Some(lost(alive.len() - 1)) }],
            no_majority: true,
        });
        let count = |count: usize| u32::try_from(count).unwrap();
        Ok(Response::new(v1::ClusterHealthReply {
            status: "HEALTHY".into(),
            members: count(nodes.len()),
            down: dead.iter().map(|node| node.name.clone()).collect(),
            voters: nodes.iter().map(|node| node.name.clone()).collect(),
            voters_required: count(required),
            voters_alive: count(alive.len()),
            keyspaces: vec![keyspace],
            if_one_more_died: one_more.collect(),
            ..Default::default()
        }))
    }

    async fn stats(&self, _: Request<v1::StatsRequest>) -> Answer<v1::StatsReply> {
        self.judge_admin().await;
        let repairs = |repaired| Some(v1::RowRepairs { repaired, ..Default::default() });
        let table = v1::TableReads {
            stale_reads: 4,
            hedges_sent: 9,
            hedges_helped: 3,
            blocking_repairs: repairs(2),
            chance_repairs: repairs(1),
            ..Default::default()
        };
        let hints = self.hints_kept();
        let reads = [("default.kv".into(), table)].into();
        Ok(Response::new(v1::StatsReply { hints: Some(hints), reads, ..Default::default() }))
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Answer<v1::MetricsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn slow_requests(&self, _: Request<v1::SlowRequestsRequest>) -> Answer<v1::SlowRequestsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn settings(&self, _: Request<v1::SettingsRequest>) -> Answer<v1::SettingsReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn change_settings(&self, _: Request<v1::ChangeSettingsRequest>) -> Answer<v1::ChangeSettingsReply> {
        Err(Status::unimplemented("not needed"))
    }
}
