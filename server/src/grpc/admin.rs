//! The calls of `cube.v1.Admin`: what is told comes from this node's copy of the cluster's state and from gossip, what is
//! changed goes through the cluster's agreement.

use std::sync::Arc;

use cube_proto::v1;
use cube_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::explained::account_of;
use super::{hints, node, repair, replication, schema, settings};
use crate::admin::{AdminError, Changed, HintOrder, Leave, check_name};
use crate::edge::{Access, Caller, Edge, EdgeError, Names};

/// Answers for the cluster.
pub(super) struct AdminService {
    edge: Arc<Edge>,
}

impl AdminService {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    fn nodes_now(&self) -> Vec<v1::Node> {
        self.edge.admin().nodes().into_iter().map(node::member).collect()
    }

    fn observe(&self) -> Result<(), Status> {
        Ok(self.edge.permit(Caller::Anonymous, Access::Observe)?)
    }

    fn steer(&self) -> Result<(), Status> {
        Ok(self.edge.permit(Caller::Anonymous, Access::Steer)?)
    }

    fn change(&self) -> Result<(), Status> {
        Ok(self.edge.permit(Caller::Anonymous, Access::ChangeSchema)?)
    }

    async fn leave(&self, name: &str, how: Leave) -> Result<Response<v1::Node>, Status> {
        self.edge.permit(Caller::Anonymous, Access::ChangeMembers)?;
        let node = self.edge.admin().leave(name, how).await.map_err(EdgeError::from)?;
        Ok(Response::new(node::member(node)))
    }

    async fn steer_hints(
        &self,
        request: Request<v1::HintOrder>,
        order: HintOrder,
    ) -> Result<Response<v1::HintsReply>, Status> {
        self.steer()?;
        self.edge.admin().steer_hints(order, request.get_ref().node.as_deref()).await.map_err(EdgeError::from)?;
        Ok(Response::new(hints::reply(self.edge.admin().hints())))
    }
}

fn changed(changed: Result<Changed, AdminError>) -> Result<Response<v1::ChangeReply>, Status> {
    let changed = changed.map_err(EdgeError::from)?;
    Ok(Response::new(v1::ChangeReply { changed: changed == Changed::Yes }))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesReply>, Status> {
        self.observe()?;
        Ok(Response::new(v1::NodesReply { nodes: self.nodes_now() }))
    }

    async fn topology(&self, request: Request<v1::TopologyRequest>) -> Result<Response<v1::TopologyReply>, Status> {
        self.observe()?;
        let state = self.edge.state();
        let known = request.get_ref().known_epoch == state.topology.epoch().0;
        let placements = if known { Vec::new() } else { schema::placements(&state) };
        Ok(Response::new(v1::TopologyReply {
            epoch: state.topology.epoch().0,
            partition_bits: u32::from(state.topology.partition_bits().bits()),
            nodes: self.nodes_now(),
            placements,
        }))
    }

    async fn hints(&self, _: Request<v1::HintsRequest>) -> Result<Response<v1::HintsReply>, Status> {
        self.observe()?;
        Ok(Response::new(hints::reply(self.edge.admin().hints())))
    }

    async fn replay_hints(&self, request: Request<v1::HintOrder>) -> Result<Response<v1::HintsReply>, Status> {
        self.steer_hints(request, HintOrder::Replay).await
    }

    async fn pause_hints(&self, request: Request<v1::HintOrder>) -> Result<Response<v1::HintsReply>, Status> {
        self.steer_hints(request, HintOrder::Pause).await
    }

    async fn resume_hints(&self, request: Request<v1::HintOrder>) -> Result<Response<v1::HintsReply>, Status> {
        self.steer_hints(request, HintOrder::Resume).await
    }

    async fn replication(
        &self,
        request: Request<v1::ReplicationRequest>,
    ) -> Result<Response<v1::ReplicationReply>, Status> {
        self.observe()?;
        replication::status(&self.edge, request.into_inner()).map(Response::new)
    }

    async fn scrub(&self, request: Request<v1::ScrubRequest>) -> Result<Response<v1::ScrubReply>, Status> {
        let now = request.into_inner().now;
        self.edge.permit(Caller::Anonymous, if now { Access::Steer } else { Access::Observe })?;
        let admin = self.edge.admin();
        Ok(Response::new(replication::scrub(if now { admin.scrub_now() } else { admin.scrub() })))
    }

    async fn decommission_node(
        &self,
        request: Request<v1::DecommissionNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        self.leave(&request.into_inner().node, Leave::Decommission).await
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let v1::RemoveNodeRequest { node, accept_loss } = request.into_inner();
        self.leave(&node, Leave::Remove { accept_loss }).await
    }

    async fn replace_node(&self, request: Request<v1::ReplaceNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let v1::ReplaceNodeRequest { node, with, accept_loss } = request.into_inner();
        self.leave(&node, Leave::Replace { with, accept_loss }).await
    }

    async fn drain_node(&self, request: Request<v1::DrainNodeRequest>) -> Result<Response<v1::DrainNodeReply>, Status> {
        self.edge.permit(Caller::Anonymous, Access::ChangeMembers)?;
        let v1::DrainNodeRequest { node, undo } = request.into_inner();
        self.edge.admin().drain(&node, undo).await.map_err(EdgeError::from)?;
        Ok(Response::new(v1::DrainNodeReply {}))
    }

    async fn schema(&self, _: Request<v1::SchemaRequest>) -> Result<Response<v1::SchemaReply>, Status> {
        self.observe()?;
        Ok(Response::new(v1::SchemaReply { keyspaces: schema::keyspaces(&self.edge.state()) }))
    }

    async fn create_keyspace(
        &self,
        request: Request<v1::CreateKeyspaceRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let v1::CreateKeyspaceRequest { keyspace, options } = request.into_inner();
        check_name("keyspace", &keyspace).map_err(EdgeError::from)?;
        let options = schema::keyspace_form(options)?.options(self.edge.sync()).map_err(EdgeError::from)?;
        changed(self.edge.admin().create_keyspace(&keyspace, options).await)
    }

    async fn alter_keyspace(
        &self,
        request: Request<v1::AlterKeyspaceRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let v1::AlterKeyspaceRequest { keyspace, options } = request.into_inner();
        let change = schema::keyspace_form(options)?.change().map_err(EdgeError::from)?;
        changed(self.edge.admin().alter_keyspace(&keyspace, change).await)
    }

    async fn drop_keyspace(
        &self,
        request: Request<v1::DropKeyspaceRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let dropped = self.edge.admin().drop_keyspace(&request.get_ref().keyspace).await;
        changed(dropped.map(|()| Changed::Yes))
    }

    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let v1::CreateTableRequest { keyspace, table, options } = request.into_inner();
        check_name("table", &table).map_err(EdgeError::from)?;
        let options = schema::table_form(options).options().map_err(EdgeError::from)?;
        changed(self.edge.admin().create_table(&keyspace, &table, options).await)
    }

    async fn alter_table(&self, request: Request<v1::AlterTableRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let v1::AlterTableRequest { keyspace, table, options } = request.into_inner();
        let change = schema::table_form(options).change().map_err(EdgeError::from)?;
        changed(self.edge.admin().alter_table(&keyspace, &table, change).await)
    }

    async fn drop_table(&self, request: Request<v1::DropTableRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        self.change()?;
        let v1::DropTableRequest { keyspace, table } = request.get_ref();
        changed(self.edge.admin().drop_table(keyspace, table).await.map(|()| Changed::Yes))
    }

    async fn start_repair(&self, request: Request<v1::StartRepairRequest>) -> Result<Response<v1::Repair>, Status> {
        self.steer()?;
        let begun = self.edge.admin().begin_repair(repair::asked(request.into_inner())).await;
        Ok(Response::new(repair::repair(begun.map_err(EdgeError::from)?)))
    }

    async fn list_repairs(&self, _: Request<v1::ListRepairsRequest>) -> Result<Response<v1::RepairsReply>, Status> {
        self.observe()?;
        let repairs = self.edge.admin().repairs().await;
        Ok(Response::new(repair::repairs(repairs.map_err(EdgeError::from)?)))
    }

    async fn get_repair(&self, request: Request<v1::GetRepairRequest>) -> Result<Response<v1::Repair>, Status> {
        self.observe()?;
        let shown = self.edge.admin().repair(&request.get_ref().id).await;
        Ok(Response::new(repair::repair(shown.map_err(EdgeError::from)?)))
    }

    async fn cancel_repair(&self, request: Request<v1::CancelRepairRequest>) -> Result<Response<v1::Repair>, Status> {
        self.steer()?;
        let ended = self.edge.admin().cancel_repair(&request.get_ref().id).await;
        Ok(Response::new(repair::repair(ended.map_err(EdgeError::from)?)))
    }

    async fn health(&self, _: Request<v1::HealthRequest>) -> Result<Response<v1::HealthReply>, Status> {
        self.observe()?;
        Ok(Response::new(node::health(self.edge.health())))
    }

    async fn cluster_health(
        &self,
        _: Request<v1::ClusterHealthRequest>,
    ) -> Result<Response<v1::ClusterHealthReply>, Status> {
        self.observe()?;
        Ok(Response::new(node::cluster_health(self.edge.cluster_health())))
    }

    async fn stats(&self, _: Request<v1::StatsRequest>) -> Result<Response<v1::StatsReply>, Status> {
        self.observe()?;
        Ok(Response::new(node::stats(self.edge.stats())))
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        self.observe()?;
        let page = self.edge.metrics_page();
        let text = page.map_err(|error| Status::internal(format!("the metrics could not be written: {error}")))?;
        Ok(Response::new(v1::MetricsReply { text }))
    }

    async fn slow_requests(
        &self,
        _: Request<v1::SlowRequestsRequest>,
    ) -> Result<Response<v1::SlowRequestsReply>, Status> {
        self.observe()?;
        let state = self.edge.state();
        let names = Names::new(&state);
        let requests = self.edge.slow_requests().iter().map(|account| account_of(account, &names)).collect();
        let threshold_ms = self.edge.config().current().slow_ms();
        Ok(Response::new(v1::SlowRequestsReply { threshold_ms, requests }))
    }

    async fn settings(&self, _: Request<v1::SettingsRequest>) -> Result<Response<v1::SettingsReply>, Status> {
        self.observe()?;
        Ok(Response::new(settings::reply(self.edge.config().show())))
    }

    async fn change_settings(
        &self,
        request: Request<v1::ChangeSettingsRequest>,
    ) -> Result<Response<v1::ChangeSettingsReply>, Status> {
        self.edge.permit(Caller::Anonymous, Access::Configure)?;
        Ok(Response::new(settings::change(self.edge.config(), request.into_inner())?))
    }
}
