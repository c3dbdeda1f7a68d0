//! Responses and refusals of requests.

use super::checkpoint::StoreError;

/// The response, or the status and text of a refusal.
pub(super) type Reply<T> = Result<T, Refusal>;

#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) detail: String,
}

pub(super) fn refuse<T>(status: u16, detail: impl Into<String>) -> Reply<T> {
    Err(Refusal { status, detail: detail.into() })
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Missing(_) => 404,
            StoreError::Exists(_) => 409,
            StoreError::Full(_) => 400,
            StoreError::Disk(_) => 500,
            StoreError::Busy(_) => 503,
        };
        Refusal { status, detail: error.text() }
    }
}
