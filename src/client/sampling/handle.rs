//! A text by which another process can sample from the same weights (PROTOCOL §9.7).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{SEQ_IDS_PER_CLONE, SamplingClient};
use crate::client::create::CreatedSampler;
use crate::config::overrides;
use crate::credentials::Secret;
use crate::error::{Error, Result};
use crate::http::{Call, Lane, endpoint};
use crate::pending::Progress;
use crate::session::{Flags, Owner, Session, is_not_offered};
use crate::wire::json::{self, HolderJson, SamplerHandleJson};

/// Written with padding, as others expect it, and read with or without.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Numbers of clones that are drawn and not given by the server.
const CLONES: u64 = 1_000_000_000;
/// A clone of a larger number would have sequence ids that do not fit into 63 bits.
const LARGEST_CLONE: u64 = i64::MAX as u64 / SEQ_IDS_PER_CLONE - 1;

/// Stands for a sampler: as text it can go to another process, on another machine or in another language, which makes a
/// client of it. It holds no credentials; of the [headers](crate::ServiceClientBuilder::default_headers_overrides) of its maker
/// it holds those whose name does not speak of a secret.
///
/// The text is that of the official SDK's `get_sampler_handle`, for its `from_sampler_handle` and the other way round.
///
/// # Example: two clients, as two processes would have them
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let sampler = service.create_sampling_client("tinkex/nano")?;
/// use tinkex::ServiceClient;
/// use tinkex::types::{ModelInput, SamplingParams};
///
/// let text = sampler.get_sampler_handle().to_string();
/// // There:
/// let twin = ServiceClient::builder().api_key(server.api_key()).from_sampler_handle(text)?;
/// let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
/// twin.sample(&ModelInput::from_ints([72]), 1, &params).wait()?;
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct SamplerHandle(SamplerHandleJson);

impl SamplerHandle {
    /// The server. A client that is made of this handle sends its credentials there.
    pub fn base_url(&self) -> &str {
        &self.0.holder.base_url
    }

    /// The session that the sampler belongs to.
    pub fn session_id(&self) -> &str {
        &self.0.session_id
    }

    /// The sampling session.
    pub fn sampling_session_id(&self) -> &str {
        &self.0.sampling_session_id
    }

    /// The base model's name, if it is known.
    pub fn base_model(&self) -> Option<&str> {
        self.0.base_model.as_deref()
    }

    /// The headers that a client of this handle is to send. What is the client's own affair is left out.
    pub(in crate::client) fn headers(&self) -> Result<Vec<(String, Secret)>> {
        let wanted = &self.0.holder.default_headers_overrides;
        let (taken, refused): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|it| overrides::may_be_foreign(it.0));
        if !refused.is_empty() {
            let names: Vec<_> = refused.iter().map(|it| it.0).collect();
            log::warn!(target: "tinkex", "headers that a sampler's handle asks for are not sent: {names:?}");
        }
        for (name, value) in &taken {
            overrides::check(name, value).map_err(|it| Error::invalid("handle", it.message()))?;
        }
        Ok(taken.into_iter().map(|(name, value)| (name.clone(), Secret::new(value.as_str()))).collect())
    }

    pub(super) fn of(client: &SamplingClient) -> Self {
        let session = client.inner.owner.session();
        let flags = session.known_flags();
        SamplerHandle(SamplerHandleJson {
            // Known, because no sampling client is made without a session.
            session_id: session.id().as_deref().unwrap_or_default().into(),
            sampling_session_id: client.sampling_session_id().into(),
            holder: HolderJson {
                base_url: session.config.base_url.clone(),
                default_headers_overrides: overrides::shared(
                    &session.config.overrides,
                    &session.config.secrets(),
                ),
                client_config: json::config_to_json(&flags.config),
                client_dynamic_config: json::dynamic_config_to_json(&session.dynamic_flags()),
                api_key: None,
            },
            base_model: client.get_base_model().map(Into::into),
            record_stability_info: client.record_stability_info,
        })
    }

    fn flags(&self) -> Result<Flags> {
        // A handle of a newer client has flags unknown here, one of an older lacks some: both are as good as a server's.
        let or_empty = |it: &serde_json::Value| if it.is_null() { serde_json::json!({}) } else { it.clone() };
        Ok(Flags {
            config: json::response_value(or_empty(&self.0.holder.client_config))?,
            dynamic: json::response_value(or_empty(&self.0.holder.client_dynamic_config))?,
            is_dynamic: true,
            are_missing: false,
            are_assumed: false,
        })
    }
}

impl fmt::Display for SamplerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&TEXT.encode(json))
    }
}

impl fmt::Debug for SamplerHandle {
    /// Without headers, one of which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SamplerHandle")
            .field("base_url", &self.base_url())
            .field("sampling_session_id", &self.sampling_session_id())
            .finish_non_exhaustive()
    }
}

impl FromStr for SamplerHandle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |problem: &str| Error::invalid("handle", problem);
        let json =
            TEXT.decode(text.trim()).map_err(|_| fail("is no handle of a sampler: it is not base64"))?;
        // What it says is not repeated in an error: it may hold secrets in its headers.
        let handle: SamplerHandleJson = json::response(&json)
            .map_err(|_| fail("is no handle of a sampler: its JSON is not what was expected"))?;
        let handle = SamplerHandle(handle);
        if handle.session_id().is_empty() || handle.sampling_session_id().is_empty() {
            return Err(fail("names no session"));
        }
        handle.flags().map_err(|_| fail("has flags that cannot be read"))?;
        Ok(handle)
    }
}

impl TryFrom<&str> for SamplerHandle {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for SamplerHandle {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<&String> for SamplerHandle {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self> {
        text.parse()
    }
}

impl From<&SamplerHandle> for SamplerHandle {
    fn from(handle: &SamplerHandle) -> Self {
        handle.clone()
    }
}

impl Serialize for SamplerHandle {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SamplerHandle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl SamplingClient {
    /// A client of the sampler behind a handle, in a session of its own on this side.
    pub(in crate::client) fn of_handle(session: Arc<Session>, handle: SamplerHandle) -> Result<Self> {
        // Made first, so that the session is ended if something fails.
        let owner = Owner::new(session.clone());
        session.join(handle.session_id().into(), handle.flags()?)?;
        let clone_id = clone_id(&session, handle.sampling_session_id())?;
        let created = CreatedSampler {
            sampling_session_id: handle.0.sampling_session_id,
            base_model: handle.0.base_model,
        };
        let client = Self::start_at(owner, created, clone_id * SEQ_IDS_PER_CLONE)?;
        Ok(client.record_stability_info(handle.0.record_stability_info))
    }
}

/// A number that no other client of the sampling session has: given by the server where it offers that, else drawn.
fn clone_id(session: &Arc<Session>, sampling_session_id: &str) -> Result<u64> {
    let drawn = || fastrand::u64(1..=CLONES);
    if !session.known_flags().config.sample_join_sampling_session {
        return Ok(drawn());
    }
    let request = json::JoinSamplingSessionRequest { sampling_session_id: sampling_session_id.into() };
    let now = session.clock.now();
    let deadline = now.checked_add(session.config.timeouts.operation);
    let progress = Progress::new("SamplingClient.from_sampler_handle", now, deadline);
    let call = Call::post(Lane::Session, &endpoint::JOIN_SAMPLING_SESSION, &request)?.of(&progress);
    let _long_wait = session.long_wait(&progress);
    let joined: Result<json::JoinSamplingSessionResponse> = session.http.json(&call, &session.cancel);
    match joined {
        Ok(it) => match it.client_counter {
            Some(it) if it <= LARGEST_CLONE => Ok(it),
            Some(it) => Err(Error::decode(format!("a client_counter of {it} is too large"))),
            None => Ok(drawn()),
        },
        // Such a server's flags promised too much.
        Err(error) if is_not_offered(&error) => Ok(drawn()),
        Err(error) => Err(error),
    }
}
