//! The node's settings over HTTP: what is in effect, and changing what may change while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use serde::Serialize;
use serde_json::Value;

use super::body::read_json;
use super::input::Parameters;
use crate::config::{Change, SettingView};
use crate::edge::{Access, Caller, Edge, EdgeError};

/// The longest patch: all settings, each with a long value.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What `GET /api/v1/config` answers.
#[derive(Serialize)]
pub(super) struct SettingsDocument {
    settings: Vec<SettingDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingDocument {
    name: &'static str,
    value: Value,
    source: String,
    changeable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_restart: Option<Value>,
}

/// What `PATCH /api/v1/config` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChangeDocument {
    success: bool,
    message: String,
    changed: Vec<&'static str>,
    /// What the node's files say by now, and what only a restart makes so.
    needs_restart: Vec<&'static str>,
}

/// `GET /api/v1/config`
pub(super) async fn show(State(edge): State<Arc<Edge>>, uri: Uri) -> Result<Json<SettingsDocument>, EdgeError> {
    admit(&edge, &uri, Access::Observe)?;
    let settings = edge.config().show().into_iter().map(SettingDocument::from);
    Ok(Json(SettingsDocument { settings: settings.collect() }))
}

/// `PATCH /api/v1/config`
pub(super) async fn change(State(edge): State<Arc<Edge>>, request: Request) -> Result<Json<ChangeDocument>, EdgeError> {
    admit(&edge, request.uri(), Access::Configure)?;
    let patch = read_json::<BTreeMap<String, Value>>(&edge, request, BODY_BYTES_MAX).await?;
    let Change { changed, needs_restart } = edge.config().patch(&patch)?;
    let message = match changed.as_slice() {
        [] => "Nothing changed".to_owned(),
        changed => format!("Changed until the node ends: {}", changed.join(", ")),
    };
    Ok(Json(ChangeDocument { success: true, message, changed, needs_restart }))
}

fn admit(edge: &Edge, uri: &Uri, access: Access<'_>) -> Result<(), EdgeError> {
    Parameters::parse(uri.query(), &[])?;
    edge.permit(Caller::Anonymous, access)
}

impl From<SettingView> for SettingDocument {
    fn from(setting: SettingView) -> Self {
        let SettingView { name, value, source, changeable, after_restart } = setting;
        let after_restart = after_restart.map(|value| json(&value));
        Self { name, value: json(&value), source, changeable, after_restart }
    }
}

/// A value as TOML writes it: numbers, words, texts and lists of texts are JSON as they stand.
fn json(toml: &str) -> Value {
    serde_json::from_str(toml).unwrap_or_else(|_| Value::from(toml))
}
