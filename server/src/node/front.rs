//! What is reached over HTTP: from the first moment that the process lives and why it does not serve yet, and the whole
//! API once it does. The port never changes hands, so nobody is turned away in between.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tower::ServiceExt;

/// A router that can be replaced while it serves.
#[derive(Clone)]
pub(super) struct Front {
    current: Arc<ArcSwap<Router>>,
}

impl Front {
    /// Serves `first` until it is replaced.
    pub(super) fn new(first: Router) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(first)) }
    }

    /// Serves another router from now on. Requests under way stay with the one they came to.
    pub(super) fn replace(&self, router: Router) {
        self.current.store(Arc::new(router));
    }

    /// What is given to the port.
    pub(super) fn router(&self) -> Router {
        let current = Arc::clone(&self.current);
        Router::new().fallback(move |request: Request| {
            let router = current.load().as_ref().clone();
            async move { answer(router, request).await }
        })
    }
}

async fn answer(router: Router, request: Request) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
