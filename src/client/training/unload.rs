//! Unloading of a model.

use super::submit::SingleRequest;
use super::{Msg, TrainingClient};
use crate::http::endpoint;
use crate::pending::Pending;
use crate::wire::json;

impl TrainingClient {
    /// Removes the model with its unsaved state from the server, after the operations submitted before (PROTOCOL §3.3
    /// #19). Self-hosted servers can often hold only a few models, and keep a model until its session ends or has sent
    /// no heartbeat for minutes. The official service does not need this call and may lack the endpoint. The end of the
    /// session also removes the model.
    ///
    /// Later operations of the model fail: [`close`](Self::close) the client.
    ///
    /// # Errors
    /// Through the [`Pending`]: an error of the server, such as 404 if it lacks the endpoint.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: one model after another
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// for rank in [8, 16] {
    ///     let lora = tinkex::types::LoraConfig { rank, ..Default::default() };
    ///     let training = service.create_lora_training_client("tinkex/nano", lora)?;
    ///     training.unload_model().wait()?;
    ///     training.close();
    /// }
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn unload_model(&self) -> Pending<()> {
        self.submit_request("TrainingClient.unload_model", Msg::Unload, |ticket| SingleRequest {
            ticket,
            endpoint: &endpoint::UNLOAD_MODEL,
            request_type: "UnloadModel",
            body: Box::new(|model_id, _| {
                json::encode(&json::UnloadModelRequest { model_id: model_id.into() })
            }),
            read: |body| body.read::<json::UnloadModelResponse>().map(drop),
            named: None,
        })
    }
}
