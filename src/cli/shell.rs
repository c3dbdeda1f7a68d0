//! `tinkex completions` and `tinkex man`: made from the definition of the command line when they are asked for, so that
//! users of `cargo install` have them too.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::connection::App;
use super::failure::Failure;
use super::manual;
use super::similar::is_near;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Command whose page is printed, such as `train` or `checkpoint delete`; or a folder, which gets the pages of all
    /// commands and is written ./NAME if it has the name of a command. Without both, the page of the program is printed
    #[arg(value_name = "COMMAND|DIR")]
    words: Vec<String>,
}

pub(crate) fn completions(args: CompletionsArgs, app: &App) -> Result<(), Failure> {
    app.out.needs_text("completions")?;
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut manual::command(), "tinkex", &mut text);
    app.out.bytes(&text)
}

pub(crate) fn man(args: ManArgs, app: &App) -> Result<(), Failure> {
    app.out.needs_text("man")?;
    let mut root = manual::command().disable_help_subcommand(true);
    root.build();
    let failed = |error: std::io::Error| Failure::text(format!("cannot make the page: {error}"));
    match wanted(&args.words, &root, |folder| folder.is_dir())? {
        Wanted::Page(command) => app.out.bytes(&manual::page(command, &root).map_err(failed)?),
        Wanted::Folder(folder) => {
            let file = |error| Failure::text(format!("cannot write to {}: {error}", folder.display()));
            std::fs::create_dir_all(&folder).map_err(file)?;
            write_all(&root, &root, &folder).map_err(file)
        }
    }
}

/// What is asked for.
#[derive(Debug)]
enum Wanted<'a> {
    Page(&'a clap::Command),
    Folder(PathBuf),
}

/// The words of a command mean its page, and another word a folder, unless it is probably a misspelt command.
fn wanted<'a>(
    words: &[String],
    root: &'a clap::Command,
    is_folder: impl Fn(&Path) -> bool,
) -> Result<Wanted<'a>, Failure> {
    let mut command = root;
    for (i, word) in words.iter().enumerate() {
        if let Some(found) = command.find_subcommand(word) {
            command = found;
            continue;
        }
        let similar = command.get_subcommands().map(clap::Command::get_name).find(|name| is_near(word, name));
        let path = Path::new(word);
        if words.len() == 1 && (word.contains('/') || is_folder(path) || similar.is_none()) {
            return Ok(Wanted::Folder(path.to_owned()));
        }
        let failure = Failure::usage(format!("`{}` is not a command", words[..=i].join(" ")));
        return Err(match similar {
            Some(name) if words.len() == 1 => failure
                .with_remedy(format!("did you mean `{name}`? A folder of this name is written ./{word}")),
            Some(name) => failure.with_remedy(format!("did you mean `{name}`?")),
            None => failure.with_remedy("`tinkex --help` lists the commands"),
        });
    }
    Ok(Wanted::Page(command))
}

fn write_all(command: &clap::Command, root: &clap::Command, folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!("{}.1", manual::page_name(command)));
    std::fs::write(file, manual::page(command, root)?)?;
    command.get_subcommands().try_for_each(|command| write_all(command, root, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_names_a_command_is_never_a_folder() {
        let root = manual::command();
        for (words, folder_is_there, expected) in [
            (&[][..], false, Some("page tinkex")),
            (&["train"], true, Some("page train")),
            (&["checkpoint"], false, Some("page checkpoint")),
            (&["checkpoint", "delete"], false, Some("page delete")),
            (&["./train"], false, Some("folder ./train")),
            (&["pages"], false, Some("folder pages")),
            (&["trian"], false, None),
            (&["trian"], true, Some("folder trian")),
            (&["checkpoint", "delte"], false, None),
            (&["pages", "more"], false, None),
        ] {
            let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
            let found = wanted(&words, &root, |_| folder_is_there).ok().map(|it| match it {
                Wanted::Page(command) => format!("page {}", command.get_name()),
                Wanted::Folder(folder) => format!("folder {}", folder.display()),
            });
            assert_eq!(found.as_deref(), expected, "{words:?}");
        }
    }
}
