//! Errors as HTTP: the status of the code, one JSON shape, and when to try again.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::explained::Explained;
use crate::edge::{Details, EdgeError, Names};

/// The one shape of errors.
#[derive(Serialize)]
pub(crate) struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explained>,
}

impl<'a> From<&'a EdgeError> for ErrorDocument<'a> {
    fn from(error: &'a EdgeError) -> Self {
        let explained = error.explained.as_ref().map(|told| Explained::of(&told.account, &Names::new(&told.state)));
        Self { error: error.into(), explained }
    }
}

#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    details: &'a Details,
}

impl<'a> From<&'a EdgeError> for ErrorBody<'a> {
    fn from(error: &'a EdgeError) -> Self {
        Self { code: error.code.name(), message: &error.message, details: &error.details }
    }
}

impl IntoResponse for EdgeError {
    fn into_response(self) -> Response {
        let body = Json(ErrorDocument::from(&self));
        let mut response = (self.code.http(), body).into_response();
        if let Some(retry_after_ms) = self.details.retry_after_ms {
            // The header knows whole seconds; the details tell exactly.
            let seconds = HeaderValue::from(retry_after_ms.div_ceil(1_000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
