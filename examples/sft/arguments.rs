//! The command line of the example.

use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Fine-tunes a model on chats, one JSON object {\"messages\": [...]} a line.

Usage: sft [FOLDER] [--data FILE] [--renderer NAME] [--steps N] [--save-every N]

  FOLDER          folder of the run; if it has a run, the run continues; default: sft-run
  --data FILE     the chats; default: examples/data/chats.jsonl
  --renderer NAME format of the chats; default: the one that is recommended for the model
  --steps N       steps in all; default: 150
  --save-every N  steps between checkpoints; default: 20
  -h, --help      print this text

FOLDER gets metrics.jsonl, checkpoints.jsonl and config.json, in the format of the Tinker cookbook.
A run continues only with the chats, the renderer and the model that it began with.
";

pub(crate) struct Arguments {
    pub(crate) folder: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) renderer: Option<String>,
    pub(crate) steps: u64,
    pub(crate) save_every: u64,
}

impl Arguments {
    /// Reads the arguments; `None` for one that asks for help.
    pub(crate) fn read(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut read = Arguments {
            folder: "sft-run".into(),
            data: concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/chats.jsonl").into(),
            renderer: None,
            steps: 150,
            save_every: 20,
        };
        let mut folder = None;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text:?} is not a whole number"));
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--data" => read.data = value()?.into(),
                "--renderer" => read.renderer = Some(value()?),
                "--steps" => read.steps = number(value()?)?,
                "--save-every" => read.save_every = number(value()?)?,
                unknown if unknown.starts_with('-') => return Err(format!("unknown argument {unknown:?}")),
                "" => return Err("the name of the folder is empty".into()),
                surplus if folder.is_some() => {
                    return Err(format!("{surplus:?} is a second folder; a run has one"));
                }
                name => folder = Some(PathBuf::from(name)),
            }
        }
        read.folder = folder.unwrap_or(read.folder);
        Ok(Some(read))
    }
}
