//! The endpoints of the API (PROTOCOL §3), each with the facts that decide how it is called and what its refusals mean.

use crate::policy::endpoints::Names;

/// One endpoint: a method and a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Method and path below `/api/v1/`, such as `GET sessions/{id}`. Errors contain this name.
    pub(crate) name: &'static str,
    /// The object that a 404 of this endpoint may refer to, unless the call sets another one.
    pub(crate) names: Names,
    /// After a refusal for lack of payment (HTTP 402), the client waits and repeats the request (PROTOCOL §1.11). If
    /// false, the caller gets the error immediately.
    pub(crate) waits_for_payment: bool,
    /// The endpoint saves weights under a name. A refusal with the text "already exists" is a conflict, whatever its
    /// status.
    pub(crate) saves_by_name: bool,
}

impl Endpoint {
    const fn new(name: &'static str) -> Self {
        Endpoint { name, names: Names::Something, waits_for_payment: true, saves_by_name: false }
    }

    const fn naming(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    const fn failing_unpaid(mut self) -> Self {
        self.waits_for_payment = false;
        self
    }

    const fn saving_by_name(mut self) -> Self {
        self.saves_by_name = true;
        self
    }

    /// The method, in upper case.
    pub(crate) fn method(&self) -> &'static str {
        self.name.split_once(' ').map_or("GET", |parts| parts.0)
    }

    /// The path from `/api/v1/` on. Ids are written `{id}`; [`path_with`](Endpoint::path_with) fills them in.
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/{}", self.name.split_once(' ').map_or(self.name, |parts| parts.1))
    }

    /// The path with each `{id}` replaced in order. The ids must be percent-encoded already.
    pub(crate) fn path_with(&self, ids: &[&str]) -> String {
        ids.iter().fold(self.path(), |path, id| path.replacen("{id}", id, 1))
    }
}

macro_rules! endpoints {
    ($($constant:ident = $endpoint:expr;)*) => {
        $(pub(crate) static $constant: Endpoint = $endpoint;)*

        #[cfg(test)]
        static ALL: &[&Endpoint] = &[$(&$constant),*];
    };
}

// Endpoints with `failing_unpaid` report a missing payment immediately, as PROTOCOL §1.11 lists them. An immediate
// error of these endpoints loses no work: they start something new, concern the account or the settings, or only inform
// the server (heartbeats, telemetry, the end of a session).
endpoints! {
    // Account and settings
    AUTH_TOKEN = Endpoint::new("POST auth/token").failing_unpaid();
    API_KEY = Endpoint::new("GET auth/apikey/me").naming(Names::Nothing).failing_unpaid();
    REVOKE_API_KEY = Endpoint::new("DELETE auth/apikey/me").naming(Names::Nothing).failing_unpaid();
    CLIENT_CONFIG = Endpoint::new("POST client/config").failing_unpaid();
    CLIENT_DYNAMIC_CONFIG = Endpoint::new("POST client/dynamic_config").failing_unpaid();
    SERVER_CAPABILITIES = Endpoint::new("GET get_server_capabilities").naming(Names::Nothing).failing_unpaid();
    HEALTHZ = Endpoint::new("GET healthz").naming(Names::Nothing);

    // Sessions
    CREATE_SESSION = Endpoint::new("POST create_session").failing_unpaid();
    SESSION_HEARTBEAT = Endpoint::new("POST session_heartbeat").failing_unpaid();
    FINISH_SESSION = Endpoint::new("POST sessions/{id}/finish").failing_unpaid();
    TELEMETRY = Endpoint::new("POST telemetry").failing_unpaid();
    SESSIONS = Endpoint::new("GET sessions");
    SESSION = Endpoint::new("GET sessions/{id}");
    SEARCH_SESSIONS = Endpoint::new("POST sessions/search");
    SESSION_PROJECT = Endpoint::new("PUT sessions/{id}/project");
    SESSION_TRACE_EXPORT = Endpoint::new("GET sessions/{id}/trace_export");

    // Models and training
    CREATE_MODEL = Endpoint::new("POST create_model").naming(Names::NoPath).failing_unpaid();
    UNLOAD_MODEL = Endpoint::new("POST unload_model");
    GET_INFO = Endpoint::new("POST get_info");
    FORWARD = Endpoint::new("POST forward");
    FORWARD_BACKWARD = Endpoint::new("POST forward_backward");
    OPTIM_STEP = Endpoint::new("POST optim_step");
    CREATE_CUSTOM_LOSS = Endpoint::new("POST create_custom_loss");
    LOAD_WEIGHTS = Endpoint::new("POST load_weights");
    SAVE_WEIGHTS = Endpoint::new("POST save_weights").saving_by_name();
    SAVE_WEIGHTS_EXTERNAL = Endpoint::new("POST save_weights_external").saving_by_name();
    SAVE_WEIGHTS_FOR_SAMPLER = Endpoint::new("POST save_weights_for_sampler").saving_by_name();

    // Sampling
    CREATE_SAMPLING_SESSION = Endpoint::new("POST create_sampling_session").naming(Names::NoPath).failing_unpaid();
    JOIN_SAMPLING_SESSION = Endpoint::new("POST join_sampling_session");
    ASAMPLE = Endpoint::new("POST asample");
    SAMPLER = Endpoint::new("GET samplers/{id}");

    // Results
    RETRIEVE_FUTURE = Endpoint::new("POST retrieve_future");
    RETRIEVE_FUTURES = Endpoint::new("POST retrieve_futures");
    CANCEL_FUTURE = Endpoint::new("POST cancel_future");

    // Runs and checkpoints
    TRAINING_RUNS = Endpoint::new("GET training_runs");
    TRAINING_RUN = Endpoint::new("GET training_runs/{id}");
    RUN_CHECKPOINTS = Endpoint::new("GET training_runs/{id}/checkpoints");
    CHECKPOINTS = Endpoint::new("GET checkpoints");
    DELETE_CHECKPOINT = Endpoint::new("DELETE training_runs/{id}/checkpoints/{id}");
    PUBLISH_CHECKPOINT = Endpoint::new("POST training_runs/{id}/checkpoints/{id}/publish");
    UNPUBLISH_CHECKPOINT = Endpoint::new("DELETE training_runs/{id}/checkpoints/{id}/publish");
    CHECKPOINT_TTL = Endpoint::new("PUT training_runs/{id}/checkpoints/{id}/ttl");
    CHECKPOINT_ARCHIVE = Endpoint::new("GET training_runs/{id}/checkpoints/{id}/archive");
    EXTERNAL_WEIGHTS_URLS = Endpoint::new("GET training_runs/{id}/checkpoints/{id}/external_weights_urls");
    WEIGHTS_INFO = Endpoint::new("POST weights_info");
    COPY_WEIGHTS = Endpoint::new("POST copy_weights");

    // Administration
    AUDIT = Endpoint::new("GET audit").naming(Names::Nothing);
    BILLING_EVENTS = Endpoint::new("GET billing/usage/events").naming(Names::Nothing);
    BILLING_STORAGE = Endpoint::new("GET billing/usage/checkpoints/current");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_endpoint_is_listed_once_with_a_known_method() {
        let names: BTreeSet<_> = ALL.iter().map(|endpoint| endpoint.name).collect();
        assert_eq!(names.len(), ALL.len());
        for endpoint in ALL {
            assert!(matches!(endpoint.method(), "GET" | "POST" | "PUT" | "DELETE"), "{endpoint:?}");
            assert!(!endpoint.path().contains(' '), "{endpoint:?}");
        }
    }

    #[test]
    fn ids_are_filled_into_the_path_in_order() {
        assert_eq!(CREATE_MODEL.path(), "/api/v1/create_model");
        let path = CHECKPOINT_TTL.path_with(&["run-1", "weights/step-1"]);
        assert_eq!(path, "/api/v1/training_runs/run-1/checkpoints/weights/step-1/ttl");
    }

    #[test]
    fn endpoints_that_start_work_or_ask_for_the_account_report_a_missing_payment_at_once() {
        let at_once = ALL.iter().filter(|endpoint| !endpoint.waits_for_payment).map(|endpoint| endpoint.name);
        let expected = [
            "POST auth/token",
            "GET auth/apikey/me",
            "DELETE auth/apikey/me",
            "POST client/config",
            "POST client/dynamic_config",
            "GET get_server_capabilities",
            "POST create_session",
            "POST session_heartbeat",
            "POST sessions/{id}/finish",
            "POST telemetry",
            "POST create_model",
            "POST create_sampling_session",
        ];
        assert_eq!(at_once.collect::<Vec<_>>(), expected);
    }
}
