//! Which tokens of a conversation are trained.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Which messages of a conversation are trained. The names are those of the cookbook.
///
/// # Example: from a command line
/// ```
/// use tinkex::chat::TrainOnWhat;
///
/// let what: TrainOnWhat = "last_assistant_turn".parse()?;
/// assert_eq!(what, TrainOnWhat::LastAssistantTurn);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrainOnWhat {
    /// The last message, if it is from the assistant.
    LastAssistantMessage,
    /// The messages from the assistant after the last one from the user. A message from the user at the very end is not
    /// counted in a format with the [extension property](super::Renderer::has_extension_property), as in the cookbook: the
    /// answer before it is trained. In other formats nothing is trained then.
    #[default]
    LastAssistantTurn,
    /// Each message from the assistant.
    AllAssistantMessages,
    /// Each message, without its header.
    AllMessages,
    /// Each token, headers included.
    AllTokens,
    /// The messages of the roles `user` and `system`.
    AllUserAndSystemMessages,
    /// The messages whose `trainable` is true. Each message must say true or false.
    Customized,
}

impl TrainOnWhat {
    /// All modes.
    pub const ALL: [TrainOnWhat; 7] = [
        TrainOnWhat::LastAssistantMessage,
        TrainOnWhat::LastAssistantTurn,
        TrainOnWhat::AllAssistantMessages,
        TrainOnWhat::AllMessages,
        TrainOnWhat::AllTokens,
        TrainOnWhat::AllUserAndSystemMessages,
        TrainOnWhat::Customized,
    ];

    /// The name of the mode, such as `last_assistant_turn`.
    pub fn name(self) -> &'static str {
        match self {
            TrainOnWhat::LastAssistantMessage => "last_assistant_message",
            TrainOnWhat::LastAssistantTurn => "last_assistant_turn",
            TrainOnWhat::AllAssistantMessages => "all_assistant_messages",
            TrainOnWhat::AllMessages => "all_messages",
            TrainOnWhat::AllTokens => "all_tokens",
            TrainOnWhat::AllUserAndSystemMessages => "all_user_and_system_messages",
            TrainOnWhat::Customized => "customized",
        }
    }
}

impl fmt::Display for TrainOnWhat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TrainOnWhat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        TrainOnWhat::ALL.into_iter().find(|what| what.name() == name).ok_or_else(|| {
            let names: Vec<&str> = TrainOnWhat::ALL.iter().map(|what| what.name()).collect();
            Error::invalid("train_on_what", format!("{name:?} is not a mode; they are {}", names.join(", ")))
        })
    }
}
