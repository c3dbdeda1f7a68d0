//! `tinkex completions` and `tinkex man`: made from the definition of the command line when they are asked for, so that
//! users of `cargo install` have them too.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::connection::App;
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Folder for one page per command; without it, the page of the program is printed
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: CompletionsArgs, app: &App) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tinkex", &mut text);
    app.out.bytes(&text)
}

pub(crate) fn man(args: ManArgs, app: &App) -> Result<(), Failure> {
    let Some(dir) = args.dir else {
        let mut text = Vec::new();
        let page = clap_mangen::Man::new(Cli::command());
        page.render(&mut text).map_err(|error| Failure::text(format!("cannot make the page: {error}")))?;
        return app.out.bytes(&text);
    };
    let file = |error: std::io::Error| Failure::text(format!("cannot write to {}: {error}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(file)?;
    clap_mangen::generate_to(Cli::command(), &dir).map_err(file)
}
