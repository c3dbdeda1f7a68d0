//! The segments of a path that a route names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::refusal;

/// As axum's [`Path`], with refusals in the form of this server.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(it)) => Ok(Segments(it)),
            Err(error) => Err(refusal(error.status().as_u16(), &format!("the path: {}", error.body_text()))),
        }
    }
}
