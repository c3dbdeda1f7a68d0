//! Giving a model back.

use super::submit::Ask;
use super::{Msg, TrainingClient};
use crate::http::endpoint;
use crate::pending::Pending;
use crate::wire::json;

impl TrainingClient {
    /// Has the server forget the model, and everything of it that was not saved, behind what was submitted before (PROTOCOL
    /// §3.3 #19). Servers of one's own often hold few models, and keep each until its session ends or has been silent for
    /// minutes. The official service needs no such call and may lack it; there, as everywhere, ending the session will do.
    ///
    /// Nothing can be done with the model afterwards; [`close`](Self::close) the client.
    ///
    /// # Errors
    /// Through the [`Pending`]: what the server says, such as 404 from one that does not offer it.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: one model after the other
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
        self.ask("TrainingClient.unload_model", Msg::Unload, |ticket| Ask {
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
