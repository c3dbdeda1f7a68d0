//! The client for those who run an organization.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ServiceClient;
use super::asking::{Ask, Asker};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::types::{AuditEntry, AuditEventType, BillingUsage, Day, StorageUsage, Timestamp};
use crate::wire::json::AuditResponse;
use crate::wire::url::Query;

const HOUR: u64 = 3600;
/// The longest span of usage that a server lists at once.
const LONGEST: Duration = Duration::from_secs(14 * 24 * HOUR);

/// Reads the audit log and what was used (PROTOCOL §3.6). The credential needs the role for it.
///
/// Made by [`ServiceClient::create_admin_client`]. What is said of errors and waiting at
/// [`RestClient`](crate::RestClient) holds here too.
///
/// # Example: what did training cost?
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
    asker: Asker,
}

impl AdminClient {
    pub(super) fn new(service: &ServiceClient) -> Self {
        AdminClient { asker: Asker::new(service) }
    }

    /// What happened on a day, in UTC; `None` is today (PROTOCOL §3.6 #43).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission), and as for [`RestClient`](crate::RestClient).
    ///
    /// # Blocking
    /// For one request.
    pub fn get_audit_log(&self, event_type: AuditEventType, day: Option<&Day>) -> Result<Vec<AuditEntry>> {
        let query = Query::on(endpoint::AUDIT.path()).with("event_type", event_type.as_str());
        let ask = Ask::new(&endpoint::AUDIT, query.and("day", day).text());
        Ok(self.asker.json::<AuditResponse>("AdminClient.get_audit_log", ask)?.entries)
    }

    /// What was used from one full hour to another, in UTC, and what it cost (PROTOCOL §3.6 #41).
    ///
    /// # Errors
    /// A time that is no full hour, an end that is not after its beginning or more than 14 days behind it (nothing is sent);
    /// a beginning in the future (the server says so); [`Permission`](crate::ErrorKind::Permission) without the role for
    /// billing, and as for [`RestClient`](crate::RestClient).
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
            Ok(span) if !span.is_zero() && span <= LONGEST => {}
            Ok(span) if LONGEST < span => {
                return Err(Error::invalid("ending_before", "is more than 14 days after starting_on"));
            }
            _ => return Err(Error::invalid("ending_before", "is not after starting_on")),
        }
        let query = Query::on(endpoint::BILLING_EVENTS.path())
            .with("starting_on", Timestamp::from(starting))
            .with("ending_before", Timestamp::from(ending));
        let ask = Ask::new(&endpoint::BILLING_EVENTS, query.text());
        self.asker.json("AdminClient.get_billing_usage", ask)
    }

    /// What the checkpoints take now, of one project or of all (PROTOCOL §3.6 #42).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission), and as for [`RestClient`](crate::RestClient).
    ///
    /// # Blocking
    /// For one request.
    pub fn get_current_checkpoint_storage_usage(&self, project_id: Option<&str>) -> Result<StorageUsage> {
        const VERB: &str = "AdminClient.get_current_checkpoint_storage_usage";
        let query = Query::on(endpoint::BILLING_STORAGE.path()).and("project_id", project_id);
        let ask = Ask::new(&endpoint::BILLING_STORAGE, query.text());
        // A project that was named may be what is missing.
        let ask = if project_id.is_some() { ask } else { ask.naming_nothing() };
        self.asker.json(VERB, ask)
    }
}

fn full_hour(field: &str, time: &Timestamp) -> Result<SystemTime> {
    let at = time.to_system_time();
    let since = at.and_then(|it| it.duration_since(UNIX_EPOCH).ok());
    match (at, since) {
        (Some(at), Some(since)) if since.as_secs() % HOUR == 0 && since.subsec_nanos() == 0 => Ok(at),
        _ => Err(Error::invalid(field, format!("{time} is no full hour in UTC"))),
    }
}
