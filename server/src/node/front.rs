//! What is reached over HTTP: from the first moment that the process lives and why it does not serve yet, and the whole
//! API once it does. The port never changes hands, so nobody is turned away in between. At the end each answer says that
//! it is the last one of its connection, so that nobody sends a request into one that is about to close.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use tower::ServiceExt;

/// A router that can be replaced while it serves.
#[derive(Clone)]
pub(super) struct Front {
    current: Arc<ArcSwap<Router>>,
    is_closing: Arc<AtomicBool>,
}

impl Front {
    /// Serves `first` until it is replaced.
    pub(super) fn new(first: Router) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(first)), is_closing: Arc::default() }
    }

    /// Serves another router from now on. Requests under way stay with the one they came to.
    pub(super) fn replace(&self, router: Router) {
        self.current.store(Arc::new(router));
    }

    /// From now on every answer is the last one of its connection.
    pub(super) fn last_answers(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// What is given to the port.
    pub(super) fn router(&self) -> Router {
        let front = self.clone();
        Router::new().fallback(move |request: Request| {
            let (router, front) = (front.current.load().as_ref().clone(), front.clone());
            async move {
                let mut response = answer(router, request).await;
                if front.is_closing.load(Ordering::Relaxed) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        })
    }
}

async fn answer(router: Router, request: Request) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
