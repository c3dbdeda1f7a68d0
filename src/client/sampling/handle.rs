//! Sampler handles: text from which another process can make a client of the same sampler (PROTOCOL §9.7).

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
use crate::session::{Flags, Owner, Session, lacks_endpoint};
use crate::wire::json::{self, HolderJson, SamplerHandleJson};

/// Base64 of sampler handles. Written with padding, because the official Python SDK expects padding; read with or
/// without padding.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Largest random clone number. A clone number gives each client of a sampling session its own range of sequence ids.
/// It is random if the server does not assign one.
const CLONES: u64 = 1_000_000_000;
/// Largest clone number whose sequence ids fit into 63 bits.
const LARGEST_CLONE: u64 = i64::MAX as u64 / SEQ_IDS_PER_CLONE - 1;

/// Identifies a sampler. From the text of the handle another process can make a client of the same sampler, also on
/// another machine or in another language. The text contains no credentials. It contains those
/// [headers](crate::ServiceClientBuilder::default_headers_overrides) of the original client that have no secret in
/// their name or value.
///
/// The text is compatible with `get_sampler_handle` and `from_sampler_handle` of the official Python SDK.
///
/// # Example: two clients of one sampler
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let sampler = service.create_sampling_client("tinkex/nano")?;
/// use tinkex::ServiceClient;
/// use tinkex::types::{ModelInput, SamplingParams};
///
/// let text = sampler.get_sampler_handle().to_string();
/// // In the other process:
/// let twin = ServiceClient::builder().api_key(server.api_key()).from_sampler_handle(text)?;
/// let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
/// twin.sample(&ModelInput::from_ints([72]), 1, &params).wait()?;
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct SamplerHandle(SamplerHandleJson);

impl SamplerHandle {
    /// Base URL of the server. A client that is made from this handle sends its credentials there, unless its builder
    /// sets another base URL.
    pub fn base_url(&self) -> &str {
        &self.0.holder.base_url
    }

    /// Id of the sampler's session.
    pub fn session_id(&self) -> &str {
        &self.0.session_id
    }

    /// Id of the sampling session.
    pub fn sampling_session_id(&self) -> &str {
        &self.0.sampling_session_id
    }

    /// Name of the base model, if it is known.
    pub fn base_model(&self) -> Option<&str> {
        self.0.base_model.as_deref()
    }

    /// Returns the headers for a client that is made from this handle. Headers that a handle must not set are left out,
    /// and a warning with their names is logged.
    pub(in crate::client) fn headers(&self) -> Result<Vec<(String, Secret)>> {
        let headers = &self.0.holder.default_headers_overrides;
        let (taken, refused): (Vec<_>, Vec<_>) =
            headers.iter().partition(|(name, _)| overrides::may_be_foreign(name));
        if !refused.is_empty() {
            let names: Vec<_> = refused.iter().map(|(name, _)| name).collect();
            log::warn!(target: "tinkex", "these headers of a sampler handle are not allowed and not sent: {names:?}");
        }
        for (name, value) in &taken {
            overrides::check(name, value).map_err(|error| Error::invalid("handle", error.message()))?;
        }
        Ok(taken.into_iter().map(|(name, value)| (name.clone(), Secret::new(value.as_str()))).collect())
    }

    pub(super) fn of(client: &SamplingClient) -> Self {
        let session = client.inner.owner.session();
        let flags = session.known_flags();
        SamplerHandle(SamplerHandleJson {
            // The id is always known, because a sampling client exists only in an open session.
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
        // Decode the flags like those in a server's answer: ignore unknown flags, use defaults for missing flags.
        let or_empty =
            |flags: &serde_json::Value| if flags.is_null() { serde_json::json!({}) } else { flags.clone() };
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
    /// Omits the headers, whose values may be secret.
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
            TEXT.decode(text.trim()).map_err(|_| fail("is not a sampler handle: the text is not base64"))?;
        // The error does not quote the JSON: its headers may contain secrets.
        let handle: SamplerHandleJson =
            json::response(&json).map_err(|_| fail("is not a sampler handle: its JSON has another form"))?;
        let handle = SamplerHandle(handle);
        if handle.session_id().is_empty() || handle.sampling_session_id().is_empty() {
            return Err(fail("lacks the id of the session or of the sampling session"));
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
    /// Makes a client from a handle. `session` has not been opened; it joins the handle's session instead of opening a
    /// new one on the server.
    pub(in crate::client) fn of_handle(session: Arc<Session>, handle: SamplerHandle) -> Result<Self> {
        // Create the owner first: after a failure, dropping the owner ends the local session.
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

/// Returns the clone number of this client. Each client of a sampling session needs another number. The server assigns
/// the number if it supports that; otherwise the number is random, so that two equal numbers are unlikely.
fn clone_id(session: &Arc<Session>, sampling_session_id: &str) -> Result<u64> {
    let random = || fastrand::u64(1..=CLONES);
    if !session.known_flags().config.sample_join_sampling_session {
        return Ok(random());
    }
    let request = json::JoinSamplingSessionRequest { sampling_session_id: sampling_session_id.into() };
    let now = session.clock.now();
    let deadline = now.checked_add(session.config.timeouts.operation);
    let progress = Progress::new("SamplingClient.from_sampler_handle", now, deadline);
    let call = Call::post(Lane::Session, &endpoint::JOIN_SAMPLING_SESSION, &request)?.of(&progress);
    let _long_wait = session.long_wait(&progress);
    let joined: Result<json::JoinSamplingSessionResponse> = session.http.json(&call, &session.cancel);
    match joined {
        Ok(joined) => match joined.client_counter {
            Some(n) if n <= LARGEST_CLONE => Ok(n),
            Some(n) => {
                let problem = format!("the server sent a client_counter above {LARGEST_CLONE}: {n}");
                Err(Error::decode(problem))
            }
            None => Ok(random()),
        },
        // The server lacks the endpoint although its flag announces the endpoint: use a random number.
        Err(error) if lacks_endpoint(&error) => Ok(random()),
        Err(error) => Err(error),
    }
}
