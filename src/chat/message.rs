//! Messages of a conversation.

/// One message of a conversation.
///
/// # Example: a question and its answer
/// ```
/// use tinkex::chat::{Message, Part};
///
/// let question = Message::user("What is 6 × 7?");
/// let answer = Message::assistant("42").with_thinking("6 × 7 = 42");
/// assert_eq!(question.text(), "What is 6 × 7?");
/// assert_eq!(answer.content[0], Part::Thinking("6 × 7 = 42".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `developer`, `user`, `assistant`, `tool`, or another name of ASCII letters, digits, `_`, `.` and
    /// `-`. Answers are those of the role `assistant`.
    pub role: String,
    /// The parts of the content, in their order.
    pub content: Vec<Part>,
    /// Calls of tools that the assistant makes after the content.
    pub tool_calls: Vec<ToolCall>,
    /// Calls of tools that a model wrote and that could not be read. Only the parser of an answer makes them. Renderers
    /// write them as text.
    pub unparsed_tool_calls: Vec<UnparsedToolCall>,
    /// In the result of a tool: the id of the call that it answers.
    pub tool_call_id: Option<String>,
    /// In the result of a tool: the name of the tool. Renderers refuse it elsewhere; a template is given it.
    pub name: Option<String>,
    /// Tools that the model may call. Only in the system message at the beginning.
    pub tools: Vec<ToolSpec>,
    /// Whether to train on this message, if a renderer is told to train on chosen messages.
    pub trainable: Option<bool>,
}

/// A part of the content of a [`Message`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// Text that is shown to the reader.
    Text(String),
    /// What the model thinks before it answers.
    Thinking(String),
    /// An image.
    Image(Image),
}

/// An image in a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The image file.
    pub data: Vec<u8>,
    /// Its format.
    pub format: crate::types::ImageFormat,
    /// The number of tokens that the model makes of it, if it is known. Training needs it.
    pub expected_tokens: Option<usize>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Identifies the call within the conversation.
    pub id: Option<String>,
    /// The name of the tool.
    pub name: String,
    /// The arguments: the text of a JSON object.
    pub arguments: String,
}

/// A call of a tool that a model wrote and that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnparsedToolCall {
    /// What the model wrote.
    pub raw_text: String,
    /// What is wrong with it.
    pub error: String,
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// The name of the tool.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The parameters: the text of a JSON schema. Its keys keep their order.
    pub parameters: String,
}

impl Message {
    /// A message of one text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Message { role: role.into(), content: vec![Part::Text(text.into())], ..Message::default() }
    }

    /// A message of the role `system`.
    pub fn system(text: impl Into<String>) -> Self {
        Message::new("system", text)
    }

    /// A message of the role `user`.
    pub fn user(text: impl Into<String>) -> Self {
        Message::new("user", text)
    }

    /// A message of the role `assistant`.
    pub fn assistant(text: impl Into<String>) -> Self {
        Message::new("assistant", text)
    }

    /// The result of a tool.
    pub fn tool(name: impl Into<String>, call_id: impl Into<String>, text: impl Into<String>) -> Self {
        Message { name: Some(name.into()), tool_call_id: Some(call_id.into()), ..Message::new("tool", text) }
    }

    /// Puts a thought before the content.
    #[must_use]
    pub fn with_thinking(mut self, text: impl Into<String>) -> Self {
        self.content.insert(0, Part::Thinking(text.into()));
        self
    }

    /// Adds a call of a tool. `arguments` is the text of a JSON object.
    #[must_use]
    pub fn with_tool_call(
        mut self,
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        self.tool_calls.push(ToolCall {
            id: Some(id.into()),
            name: name.into(),
            arguments: arguments.into(),
        });
        self
    }

    /// Declares tools in a system message.
    #[must_use]
    pub fn with_tools(mut self, tools: impl Into<Vec<ToolSpec>>) -> Self {
        self.tools = tools.into();
        self
    }

    /// Sets whether to train on this message.
    #[must_use]
    pub fn with_trainable(mut self, trainable: bool) -> Self {
        self.trainable = Some(trainable);
        self
    }

    /// The texts of the content, joined. Thoughts and images are left out.
    pub fn text(&self) -> String {
        let texts = self.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The thoughts of the content, joined. `None` if there are none.
    pub fn thinking(&self) -> Option<String> {
        let thoughts = self.content.iter().filter_map(|part| match part {
            Part::Thinking(text) => Some(text.as_str()),
            _ => None,
        });
        thoughts.fold(None, |all: Option<String>, thought| Some(all.unwrap_or_default() + thought))
    }
}
