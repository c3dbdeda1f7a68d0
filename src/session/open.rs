//! The start of a session: fetches the flags, creates or joins the session, starts the heartbeats.

use std::sync::Arc;

use super::{CloseStatus, Flags, Session, flags};
use crate::error::Result;
use crate::error::words::{one_line, presentable};
use crate::http::{Call, Lane, endpoint};
use crate::wire::json;

impl Session {
    /// Returns the server's flags, and fetches them if they are not known. Only the service's actor calls this, so that
    /// calls never overlap.
    pub(crate) fn flags(self: &Arc<Self>) -> Result<Arc<Flags>> {
        let known = self.flags.lock().clone();
        if let Some(flags) = known {
            return Ok(flags);
        }
        self.check_open()?;
        let flags = Arc::new(
            flags::fetch(&self.http, &self.config, &self.cancel).map_err(|error| self.or_closed(error))?,
        );
        self.apply(&flags);
        if flags.are_assumed {
            self.start_flag_refresh();
        }
        Ok(flags)
    }

    /// Stores the flags and applies them to all work that starts from now on.
    pub(super) fn apply(self: &Arc<Self>, flags: &Arc<Flags>) {
        *self.flags.lock() = Some(flags.clone());
        if flags.are_missing {
            self.formats.note_old();
        }
        self.dispatch.resize(flags);
        self.start_token_refresh();
    }

    /// Joins a session that another client opened, with the flags of that client. Called once, instead of
    /// [`open`](Self::open).
    pub(crate) fn join(self: &Arc<Self>, id: Arc<str>, flags: Flags) -> Result<()> {
        flags::apply(&self.http, &flags.config)?;
        self.apply(&Arc::new(flags));
        self.start_heartbeat(id.clone())?;
        self.set_open(id);
        Ok(())
    }

    /// The current dynamic flags.
    pub(crate) fn dynamic_flags(&self) -> json::DynamicConfig {
        self.known_flags().dynamic.clone()
    }

    /// The id of the session, if it is open.
    pub(crate) fn id(&self) -> Option<Arc<str>> {
        self.id.lock().clone()
    }

    /// The current flags; the documented defaults before the first fetch.
    pub(crate) fn known_flags(&self) -> Arc<Flags> {
        self.flags.lock().clone().unwrap_or_default()
    }

    /// Returns the id of the session, and creates the session at the first call. Only the service's actor calls this.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Arc<str>> {
        let known = self.id.lock().clone();
        if let Some(id) = known {
            return Ok(id);
        }
        self.flags()?;
        let request = json::CreateSessionRequest {
            tags: self.config.tags.clone(),
            user_metadata: self.metadata(),
            sdk_version: self.config.sdk_version.clone(),
            project_id: self.config.project_id.clone(),
            display_name: self.config.display_name.clone(),
        };
        let call = Call::post(Lane::Session, &endpoint::CREATE_SESSION, &request)?;
        let reply: json::CreateSessionResponse =
            self.http.json(&call, &self.cancel).map_err(|error| self.or_closed(error))?;
        for (level, text) in [
            (log::Level::Info, &reply.info_message),
            (log::Level::Warn, &reply.warning_message),
            (log::Level::Error, &reply.error_message),
        ] {
            if let Some(text) = text {
                log::log!(target: "tinkex", level, "the server says: {}", presentable(text));
            }
        }
        let id: Arc<str> = reply.session_id.into();
        if let Err(error) = self.start_heartbeat(id.clone()) {
            // Finish the session: without heartbeats the server would end it later anyway. The next call creates
            // another session.
            if let Err(finish_error) =
                self.finish(&id, CloseStatus::Errored, Some("no thread for heartbeats"))
            {
                log::debug!(target: "tinkex", "session {} was not finished: {finish_error}", one_line(&id));
            }
            return Err(error);
        }
        self.set_open(id.clone());
        Ok(id)
    }

    /// Marks the session as open. Called after its heartbeats have started.
    fn set_open(self: &Arc<Self>, id: Arc<str>) {
        *self.id.lock() = Some(id.clone());
        if let Some(telemetry) = &self.telemetry {
            telemetry.session_started(&id);
        }
        self.start_flag_refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::credentials::Secret;
    use crate::env::Env;
    use crate::session::Job;
    use crate::sync::Mutex;
    use crate::sync::clock::Clock;
    use crate::transport::{Answer, Broken, Exchange, Transport};

    /// Accepts every request and records the paths.
    #[derive(Default)]
    struct AcceptingServer(Mutex<Vec<String>>);

    impl Transport for AcceptingServer {
        fn exchange(&self, exchange: &Exchange) -> std::result::Result<Answer, Broken> {
            let path = exchange.url.split("/api/v1/").nth(1).unwrap_or_default();
            self.0.lock().push(path.into());
            Ok(Answer { status: 200, headers: Vec::new(), body: r#"{"session_id":"s-1"}"#.into() })
        }

        fn shutdown(&self) {}
    }

    #[test]
    fn a_session_without_a_heartbeat_thread_is_not_opened() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let server = Arc::new(AcceptingServer::default());
        let session = Session::new(config, server.clone(), Clock::default());
        // No thread can be started from now on.
        session.pool[Job::Heartbeat].close();
        for n in 1..=2 {
            session.open().expect_err("no thread");
            assert_eq!(session.id(), None);
            let n_created = server.0.lock().iter().filter(|path| *path == "create_session").count();
            assert_eq!(n_created, n, "the next call creates another session");
        }
        assert_eq!(server.0.lock().last().map(String::as_str), Some("sessions/s-1/finish"));
        session.end();
    }
}
