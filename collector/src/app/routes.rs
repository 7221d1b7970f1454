//! Owns routes while they are put together, and the list of them, to which the document of the API is held. Must not own
//! which there are.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post, put};

use super::AppState;

/// A router, and what it routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(super) router: Router<Arc<AppState>>,
    pub(super) known: Vec<(&'static str, String)>,
}

impl Routes {
    /// `GET`.
    pub(crate) fn get<T: 'static>(self, path: &str, handler: impl Handler<T, Arc<AppState>>) -> Self {
        self.route("get", path, get(handler))
    }

    /// `POST`.
    pub(crate) fn post<T: 'static>(self, path: &str, handler: impl Handler<T, Arc<AppState>>) -> Self {
        self.route("post", path, post(handler))
    }

    /// `PUT`.
    pub(crate) fn put<T: 'static>(self, path: &str, handler: impl Handler<T, Arc<AppState>>) -> Self {
        self.route("put", path, put(handler))
    }

    /// With those too.
    pub(crate) fn merge(self, others: Self) -> Self {
        let known = [self.known, others.known].concat();
        Self { router: self.router.merge(others.router), known }
    }

    fn route(mut self, method: &'static str, path: &str, handler: MethodRouter<Arc<AppState>>) -> Self {
        self.known.push((method, path.to_owned()));
        Self { router: self.router.route(path, handler), known: self.known }
    }
}
