//! The routes and what is said of them: one table (`rest/routes.rs`), of which both the router and the OpenAPI
//! document are built.
//!
//! Invariant: there is no route that is not documented, and nothing documented that is no route. That a documented
//! answer is what comes is tested by asking (`tests/cluster/openapi`): answers with fields that no schema knows fail
//! it.

mod document;
mod grpc;
mod replication;
mod rows;
mod schema;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::MethodRouter;

use self::document::document;
use super::input::Parameters;
use crate::edge::{Access, Caller, Code, Edge, EdgeError};

/// The page that shows the document: it asks this node for it and needs nothing else.
const PAGE: &str = include_str!("page.html");
/// What the page may do: nothing but run what stands in it, and ask this node.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'";

/// A call: one method at one path, and what is said of it.
pub(super) struct Route {
    /// In lower case.
    pub(super) method: &'static str,
    /// As it is documented, `{name}` for what changes.
    pub(super) path: &'static str,
    /// Where the router finds it, if that is not the path alone.
    pub(super) at: Option<&'static [&'static str]>,
    pub(super) handler: MethodRouter<Arc<Edge>>,
    /// The name by which generated clients call it.
    pub(super) name: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// Query parameters.
    pub(super) query: &'static [Query],
    /// The schema of the body, and whether it may be left out.
    pub(super) body: Option<(&'static str, bool)>,
    /// The status of success and what is answered with it.
    pub(super) answers: &'static [(u16, Answer)],
    /// Errors beside those that any call may have.
    pub(super) errors: Vec<Code>,
}

/// A query parameter.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) says: &'static str,
}

/// What a parameter is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Whole,
    Flag,
    Level,
}

/// What is answered.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// JSON of a schema.
    Json(&'static str),
    /// JSON of a schema, or text where that is asked for.
    JsonOrText(&'static str),
    /// Text of a media type.
    Text(&'static str),
}

/// The router of these routes.
pub(super) fn router(routes: Vec<Route>) -> Router<Arc<Edge>> {
    routes.into_iter().fold(Router::new(), |router, route| {
        let own = [route.path];
        let paths = route.at.unwrap_or(&own);
        paths.iter().fold(router, |router, path| router.route(path, route.handler.clone()))
    })
}

/// `GET /api/v1/openapi.json`
pub(super) async fn openapi(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    admit(&edge, &uri)?;
    Ok(axum::Json(document(&super::routes::table())).into_response())
}

/// `GET /docs`
pub(super) async fn page(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Response, EdgeError> {
    admit(&edge, &uri)?;
    let policy = (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    Ok(([policy], Html(PAGE)).into_response())
}

fn admit(edge: &Edge, uri: &Uri) -> Result<(), EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, Access::Observe)
}
