//! Hints over HTTP: how many wait for whom, how their replay stands, and steering it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use cube_replication::handoff::replay::ReplayState;
use serde::{Deserialize, Serialize};

use super::body::read_json_or_default;
use super::input::Parameters;
use crate::admin::{HintOrder, HintsView};
use crate::edge::{Access, Caller, Edge, EdgeError};

/// The state of the replay for a node that is down.
const DOWN: &str = ReplayState::TargetDown.as_str();

/// The longest body of an order: a name, and what stands around it.
const ORDER_BYTES_MAX: usize = 4 << 10;

/// Whom an order is for; all, if it does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderBody {
    node: Option<String>,
}

/// What an order is answered with.
#[derive(Serialize)]
pub(super) struct OrderDocument {
    success: bool,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// `GET /api/v1/replication/hints`
pub(super) async fn hints(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<HintsView>, EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)?;
    Ok(Json(edge.admin().hints()))
}

/// `POST /api/v1/replication/hints/replay`
pub(super) async fn replay(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Replay).await
}

/// `POST /api/v1/replication/hints/pause`
pub(super) async fn pause(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Pause).await
}

/// `POST /api/v1/replication/hints/resume`
pub(super) async fn resume(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<OrderDocument>, EdgeError> {
    steer(&edge, request, HintOrder::Resume).await
}

async fn steer(edge: &Edge, request: Request, order: HintOrder) -> Result<Json<OrderDocument>, EdgeError> {
    Parameters::parse(request.uri().query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Steer)?;
    let OrderBody { node } = read_json_or_default(edge, request, ORDER_BYTES_MAX).await?;
    edge.admin().steer_hints(order, node.as_deref()).await?;
    let message = message(order, node.as_deref(), &edge.admin().hints());
    Ok(Json(OrderDocument { success: true, message, node }))
}

/// What comes of an order, as hints stand now.
fn message(order: HintOrder, node: Option<&str>, hints: &HintsView) -> String {
    match order {
        HintOrder::Pause => "hints are kept, and not delivered until they are resumed".to_owned(),
        HintOrder::Resume => "hints are delivered again".to_owned(),
        HintOrder::Replay => {
            let meant = hints.nodes.iter().filter(|(name, _)| node.is_none_or(|node| node == *name));
            let down: Vec<&str> =
                meant.filter(|(_, hints)| hints.state == DOWN).map(|(name, _)| name.as_str()).collect();
            let mut message = "hints are delivered now".to_owned();
            if !down.is_empty() {
                message.push_str(&format!("; those for {} when it is alive again", down.join(", ")));
            }
            if node.is_none() && !hints.paused.is_empty() {
                message.push_str(&format!("; those for {} are paused", hints.paused.join(", ")));
            }
            message
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::NodeHintsView;

    #[test]
    fn an_order_to_deliver_says_who_gets_nothing_yet_and_why() {
        let told = |node: Option<&str>, hints: &HintsView| message(HintOrder::Replay, node, hints);
        assert_eq!(told(None, &HintsView::default()), "hints are delivered now");
        let is_down = NodeHintsView { state: DOWN, ..NodeHintsView::default() };
        let nodes =
            [("node-2", NodeHintsView::default()), ("node-3", is_down)].map(|(name, node)| (name.to_owned(), node));
        let hints = HintsView { nodes: nodes.into(), paused: vec!["node-4".into()], ..HintsView::default() };
        assert_eq!(told(Some("node-2"), &hints), "hints are delivered now");
        assert_eq!(told(Some("node-3"), &hints), "hints are delivered now; those for node-3 when it is alive again");
        let all = "hints are delivered now; those for node-3 when it is alive again; those for node-4 are paused";
        assert_eq!(told(None, &hints), all);
    }
}
