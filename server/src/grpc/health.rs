//! The standard health service: what `Admin::health` says, for the node as a whole and for `cube.v1.Kv`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cube_proto::v1::kv_server;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::edge::{Access, Caller, Edge};

/// How often a watched node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Answers for the node's health.
pub(super) struct HealthService {
    edge: Arc<Edge>,
}

impl HealthService {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }
}

fn is_known(service: &str) -> bool {
    service.is_empty() || service == kv_server::SERVICE_NAME
}

fn status_of(edge: &Edge, service: &str) -> ServingStatus {
    match () {
        () if !is_known(service) => ServingStatus::ServiceUnknown,
        () if !edge.health().serves() => ServingStatus::NotServing,
        () => ServingStatus::Serving,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.edge.permit(Caller::Anonymous, Access::Observe)?;
        let service = request.into_inner().service;
        if !is_known(&service) {
            return Err(Status::not_found(format!("this node has no service {service:.64}")));
        }
        Ok(Response::new(response(status_of(&self.edge, &service))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Tells the status, and again whenever it has changed, until the client goes away.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.edge.permit(Caller::Anonymous, Access::Observe)?;
        let service = request.into_inner().service;
        let edge = Arc::clone(&self.edge);
        // One status waits at the most: a slow client hears the newest ones later.
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            let mut last = None;
            loop {
                tokio::select! {
                    _ = looks.tick() => {}
                    () = tell.closed() => return,
                }
                let status = status_of(&edge, &service);
                if last != Some(status) && tell.send(Ok(response(status))).await.is_err() {
                    return;
                }
                last = Some(status);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}
