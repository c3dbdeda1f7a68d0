//! The client for administrators of an organization.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ServiceClient;
use super::blocking_call::{Caller, RestRequest};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::types::{AuditEntry, AuditEventType, BillingUsage, Day, StorageUsage, Timestamp};
use crate::wire::json::AuditResponse;
use crate::wire::url::Query;

const HOUR: u64 = 3600;
/// Longest time range of one usage query.
const MAX_SPAN: Duration = Duration::from_secs(14 * 24 * HOUR);

/// Reads the audit log, usage and costs (PROTOCOL §3.6). The credential needs a role that permits these calls.
///
/// Created by [`ServiceClient::create_admin_client`]. Errors and blocking are as for [`RestClient`](crate::RestClient).
///
/// # Example: the cost of training
/// ```
/// # #[cfg(feature = "testing")] {
/// # let server = tinkex::testing::FakeServer::new();
/// # let service = server.in_memory().build()?;
/// use tinkex::types::UsageKind;
///
/// let admin = service.create_admin_client();
/// let usage = admin.get_billing_usage("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z")?;
/// let training = usage.events.iter().filter(|it| matches!(it.event_info, UsageKind::Training { .. }));
/// let cost: f64 = training.filter_map(|it| it.estimated_cost_usd).sum();
/// println!("{cost:.2} USD, known up to {:?}", usage.cost_data_through);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdminClient {
    caller: Caller,
}

impl AdminClient {
    pub(super) fn new(service: &ServiceClient) -> Self {
        AdminClient { caller: Caller::new(service) }
    }

    /// Reads the audit log of a day in UTC; `None` is today (PROTOCOL §3.6 #43).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission), and as for [`RestClient`](crate::RestClient).
    ///
    /// # Blocking
    /// For one request.
    pub fn get_audit_log(&self, event_type: AuditEventType, day: Option<&Day>) -> Result<Vec<AuditEntry>> {
        let query = Query::on(endpoint::AUDIT.path()).with("event_type", event_type.as_str());
        let request = RestRequest::new(&endpoint::AUDIT, query.and("day", day).text());
        Ok(self.caller.json::<AuditResponse>("AdminClient.get_audit_log", request)?.entries)
    }

    /// Reads the usage and costs between two full hours in UTC (PROTOCOL §3.6 #41).
    ///
    /// # Errors
    /// A time that is not a full hour, an end that is not after the start or more than 14 days after it (nothing is
    /// sent); a start in the future (rejected by the server); [`Permission`](crate::ErrorKind::Permission) without the
    /// role for billing, and as for [`RestClient`](crate::RestClient).
    ///
    /// # Blocking
    /// For one request.
    pub fn get_billing_usage<A, B>(&self, starting_on: A, ending_before: B) -> Result<BillingUsage>
    where
        A: TryInto<Timestamp>,
        B: TryInto<Timestamp>,
        Error: From<A::Error> + From<B::Error>,
    {
        let starting = full_hour("starting_on", &starting_on.try_into()?)?;
        let ending = full_hour("ending_before", &ending_before.try_into()?)?;
        match ending.duration_since(starting) {
            Ok(span) if !span.is_zero() && span <= MAX_SPAN => {}
            Ok(span) if MAX_SPAN < span => {
                return Err(Error::invalid("ending_before", "must be at most 14 days after starting_on"));
            }
            _ => return Err(Error::invalid("ending_before", "must be after starting_on")),
        }
        let query = Query::on(endpoint::BILLING_EVENTS.path())
            .with("starting_on", Timestamp::from(starting))
            .with("ending_before", Timestamp::from(ending));
        let request = RestRequest::new(&endpoint::BILLING_EVENTS, query.text());
        self.caller.json("AdminClient.get_billing_usage", request)
    }

    /// Reads the storage that checkpoints occupy now, of one project or of all (PROTOCOL §3.6 #42).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission), and as for [`RestClient`](crate::RestClient).
    ///
    /// # Blocking
    /// For one request.
    pub fn get_current_checkpoint_storage_usage(&self, project_id: Option<&str>) -> Result<StorageUsage> {
        const VERB: &str = "AdminClient.get_current_checkpoint_storage_usage";
        let query = Query::on(endpoint::BILLING_STORAGE.path()).and("project_id", project_id);
        let request = RestRequest::new(&endpoint::BILLING_STORAGE, query.text());
        // With a project id, a 404 may mean that the project does not exist; it then does not show that the server
        // lacks the endpoint.
        let request = if project_id.is_some() { request } else { request.naming_no_resource() };
        self.caller.json(VERB, request)
    }
}

fn full_hour(field: &str, time: &Timestamp) -> Result<SystemTime> {
    let at = time.to_system_time();
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    match (at, since) {
        (Some(at), Some(since)) if since.as_secs() % HOUR == 0 && since.subsec_nanos() == 0 => Ok(at),
        _ => Err(Error::invalid(
            field,
            format!("must be a full hour in UTC, such as 2026-11-20T09:00:00Z: {time}"),
        )),
    }
}
