//! Checks at compile time that all public handles can be sent to and shared between threads.

use crate::credentials::{CredentialStore, StoredCredentials};
use crate::event::{Observer, TraceContext};
use crate::sync::CancelToken;
use crate::transport::{Answer, Broken, Exchange, Transport};
use crate::{
    AdminClient, Canceller, Dump, Error, FoundSessions, Listing, Metrics, MetricsSnapshot, Pending,
    RestClient, SamplerHandle, SamplingClient, ServiceClient, ServiceClientBuilder, Status, TrainStep,
    TrainingClient, types,
};

const fn is_shared<T: Send + Sync + ?Sized>() {}

const _: () = {
    is_shared::<ServiceClient>();
    is_shared::<ServiceClientBuilder>();
    is_shared::<TrainingClient>();
    is_shared::<SamplingClient>();
    is_shared::<SamplerHandle>();
    is_shared::<RestClient>();
    is_shared::<AdminClient>();
    is_shared::<Listing<types::Checkpoint>>();
    is_shared::<FoundSessions>();
    is_shared::<Pending<types::ForwardBackwardOutput>>();
    is_shared::<TrainStep>();
    is_shared::<Canceller>();
    is_shared::<CancelToken>();
    is_shared::<Status>();
    is_shared::<Dump>();
    is_shared::<Error>();
    is_shared::<Metrics>();
    is_shared::<MetricsSnapshot>();
    is_shared::<CredentialStore>();
    is_shared::<StoredCredentials>();
    is_shared::<TraceContext>();
    is_shared::<Exchange>();
    is_shared::<Answer>();
    is_shared::<Broken>();
    is_shared::<crate::recovery::FollowedRun>();
    is_shared::<crate::recovery::RecoveryMonitor>();
    is_shared::<crate::train::Run>();
    is_shared::<dyn crate::tokenizer::Tokenizer>();
    is_shared::<dyn Transport>();
    is_shared::<dyn Observer>();
};

#[cfg(any(test, feature = "testing"))]
const _: () = {
    is_shared::<crate::testing::FakeServer>();
    is_shared::<crate::testing::Listening>();
    is_shared::<crate::testing::VirtualClock>();
};

#[cfg(feature = "local")]
const _: () = is_shared::<crate::local::Server>();

#[cfg(feature = "hub")]
const _: () = is_shared::<crate::tokenizer::HubOptions>();

#[cfg(feature = "text")]
const _: () = is_shared::<crate::tokenizer::Bpe>();
