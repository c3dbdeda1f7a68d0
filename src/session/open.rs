//! How a session begins: the flags, its creation or its joining, and the heartbeats.

use std::sync::Arc;

use super::{CloseStatus, Flags, Session, flags};
use crate::error::Result;
use crate::error::words::{one_line, presentable};
use crate::http::{Call, Lane, endpoint};
use crate::wire::json;

impl Session {
    /// The flags of the server, fetched at the first call. Only the service's actor calls this, one call at a time.
    pub(crate) fn flags(self: &Arc<Self>) -> Result<Arc<Flags>> {
        let known = self.flags.lock().clone();
        if let Some(flags) = known {
            return Ok(flags);
        }
        self.check_open()?;
        let flags =
            Arc::new(flags::fetch(&self.http, &self.config, &self.cancel).map_err(|it| self.as_ended(it))?);
        self.apply(&flags);
        if flags.are_assumed {
            self.refresh_flags();
        }
        Ok(flags)
    }

    /// Applies flags to everything that is done from now on.
    pub(super) fn apply(self: &Arc<Self>, flags: &Arc<Flags>) {
        *self.flags.lock() = Some(flags.clone());
        if flags.are_missing {
            self.dialect.note_old();
        }
        self.dispatch.resize(flags);
        self.renew_tokens();
    }

    /// Takes part in a session that somebody else has opened, under flags that he was given. Called once, instead of
    /// [`open`](Self::open).
    pub(crate) fn join(self: &Arc<Self>, id: Arc<str>, flags: Flags) -> Result<()> {
        flags::apply(&self.http, &flags.config)?;
        self.apply(&Arc::new(flags));
        self.start_heartbeat(id.clone())?;
        self.begin(id);
        Ok(())
    }

    /// The flags that may change while the session lives, as they are now.
    pub(crate) fn dynamic_flags(&self) -> json::DynamicConfig {
        self.known_flags().dynamic.clone()
    }

    /// The id of the session, if it is open.
    pub(crate) fn id(&self) -> Option<Arc<str>> {
        self.id.lock().clone()
    }

    /// The flags once they are known, else the documented defaults.
    pub(crate) fn known_flags(&self) -> Arc<Flags> {
        self.flags.lock().clone().unwrap_or_default()
    }

    /// The id of the session, which is created at the first call. Only the service's actor calls this.
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
            self.http.json(&call, &self.cancel).map_err(|it| self.as_ended(it))?;
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
            // The server would end it by itself before long, and the next call opens another.
            if let Err(untold) = self.finish(&id, CloseStatus::Errored, Some("no thread for heartbeats")) {
                log::debug!(target: "tinkex", "session {} was not finished: {untold}", one_line(&id));
            }
            return Err(error);
        }
        self.begin(id.clone());
        Ok(id)
    }

    /// A session whose heart beats is open.
    fn begin(self: &Arc<Self>, id: Arc<str>) {
        *self.id.lock() = Some(id.clone());
        if let Some(it) = &self.telemetry {
            it.session_started(&id);
        }
        self.refresh_flags();
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

    /// Grants every request, and keeps their addresses.
    #[derive(Default)]
    struct Granting(Mutex<Vec<String>>);

    impl Transport for Granting {
        fn exchange(&self, exchange: &Exchange) -> std::result::Result<Answer, Broken> {
            let path = exchange.url.split("/api/v1/").nth(1).unwrap_or_default();
            self.0.lock().push(path.into());
            Ok(Answer { status: 200, headers: Vec::new(), body: r#"{"session_id":"s-1"}"#.into() })
        }

        fn shutdown(&self) {}
    }

    #[test]
    fn a_session_that_cannot_be_kept_alive_is_none() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let server = Arc::new(Granting::default());
        let session = Session::new(config, server.clone(), Clock::default());
        // Threads are refused from now on.
        session.pool[Job::Heartbeat].close();
        for n in 1..=2 {
            session.open().expect_err("no thread");
            assert_eq!(session.id(), None);
            let asked = server.0.lock().iter().filter(|it| *it == "create_session").count();
            assert_eq!(asked, n, "the next call begins anew");
        }
        assert_eq!(server.0.lock().last().map(String::as_str), Some("sessions/s-1/finish"));
        session.end();
    }
}
